"""Pretrained weights of the usual formats for ViT and Swin backbones: recognised, converted, and accounted for."""

from vpeft.core.backbones.weights.formats import recognise
from vpeft.core.backbones.weights.load import Report, load_pretrained

__all__ = ["Report", "load_pretrained", "recognise"]
