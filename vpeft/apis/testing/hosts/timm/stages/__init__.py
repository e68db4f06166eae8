"""Which tiny backbones are of timm (stages)?"""
