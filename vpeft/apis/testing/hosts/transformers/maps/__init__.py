"""Which tiny backbones are of transformers (maps)?"""
