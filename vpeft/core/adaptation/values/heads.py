"""The base's own head: its values from before the adapter, and how they come back.

A head that the backbone holds inside (timm does) is remembered from attaching on; one outside, when a loaded adapter
overwrites it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vpeft.core.backbones.host import Host


class Heads:
    """The base's own head: values kept on the CPU, and the module itself where a method has put another in its place.

    Args:
        host: The host.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.values: dict[str, Tensor] = {}
        #: Tensors outside the backbone that a loaded adapter has overwritten, with their values from before.
        self.outside: list[tuple[Tensor, Tensor]] = []

    def present(self) -> dict[str, Tensor]:
        """The tensors of the head as they are, by key inside the backbone."""
        backbone = self.host.backbone
        return {
            f"{name}.{key}": value
            for name in self.host.heads()
            for key, value in backbone.get_submodule(name).state_dict().items()
        }

    def remember(self) -> None:
        """Take the present values as the base's own; on the meta device there are none."""
        self.values = {
            key: value.to("cpu", copy=True)
            for key, value in self.present().items()
            if not value.is_meta and key.split(".")[0] not in self.host.plain_heads
        }

    def cover(self, before: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Remember what a loaded adapter has overwritten outside the backbone: tensors, with their former values."""
        known = {id(tensor) for tensor, _ in self.outside}
        self.outside += [(tensor, value.to("cpu")) for tensor, value in before if id(tensor) not in known]

    def restore(self) -> None:
        """Write the base's own values back; a head of other sizes, put in since, is left alone."""
        present = self.present()
        with torch.no_grad():
            for key, value in self.values.items():
                if key in present and present[key].shape == value.shape:
                    present[key].copy_(value)
            for tensor, value in self.outside:
                tensor.copy_(value)

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Within the context the head is the base's own."""
        backbone, swapped = self.host.backbone, dict[str, nn.Module]()
        kept = {key: value.clone() for key, value in self.present().items() if key in self.values}
        outside = [(tensor, tensor.detach().clone()) for tensor, _ in self.outside]
        self.restore()
        for name, head in self.host.plain_heads.items():
            swapped[name] = getattr(backbone, name)
            setattr(backbone, name, head.to(next(swapped[name].parameters())))
        try:
            yield
        finally:
            for name, head in swapped.items():
                setattr(backbone, name, head)
            present = self.present()
            with torch.no_grad():
                for key, value in kept.items():
                    present[key].copy_(value)
                for tensor, value in outside:
                    tensor.copy_(value)
