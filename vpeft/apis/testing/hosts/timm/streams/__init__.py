"""Which tiny backbones are of timm (streams)?"""
