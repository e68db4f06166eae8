"""Which tiny backbones are of timm (pyramids)?"""
