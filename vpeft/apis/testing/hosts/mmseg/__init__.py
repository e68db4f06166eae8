"""Which tiny backbones are of mmseg?"""
