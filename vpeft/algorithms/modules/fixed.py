"""Tensors that are stored with a method and never trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn


class Fixed(nn.Module):
    """Tensors by name, like ``nn.ParameterDict``, as buffers: they are saved, moved and cast, and get no gradient."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def __getitem__(self, name: str) -> Tensor:
        return self._buffers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._buffers)
