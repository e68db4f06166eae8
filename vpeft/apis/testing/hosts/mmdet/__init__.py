"""Which tiny backbones are of mmdet?"""
