"""Which tiny backbones are of mmaction?"""
