"""Which tiny backbones are of timm (pooled)?"""
