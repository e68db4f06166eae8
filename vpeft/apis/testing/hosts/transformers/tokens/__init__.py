"""Which tiny backbones are of transformers (tokens)?"""
