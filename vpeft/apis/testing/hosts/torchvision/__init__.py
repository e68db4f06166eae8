"""Which tiny backbones are of torchvision?"""
