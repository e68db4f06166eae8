"""Which tiny backbones are of open_clip?"""
