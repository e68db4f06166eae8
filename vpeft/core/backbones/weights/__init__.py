"""Pretrained weights of the usual formats for ViT and Swin backbones: recognised, converted, and accounted for."""

from vpeft.core.backbones.weights.load import LoadReport, load_pretrained, load_weights
from vpeft.core.backbones.weights.recognise import recognise

__all__ = ["LoadReport", "load_pretrained", "load_weights", "recognise"]
