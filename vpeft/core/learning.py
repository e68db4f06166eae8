"""What a method may look at before training: the training images, once, through the frozen model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites import Entry, Flow, Site
from vpeft.core.contract.training import TrainingData
from vpeft.errors import UserError


def training_data(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> TrainingData:
    """The data of a classifier, or of a bare backbone."""
    return TrainingData(batches, lambda x: pooled_features(model, x), lambda x: class_scores(model, x))


def pooled_features(model: nn.Module, images: Tensor) -> Tensor:
    """Features ``(B, D)`` in front of the head, the mean over places and over the clips of a sample."""
    if hasattr(model, "extract_feat"):
        out = model.extract_feat(images)
    elif hasattr(model, "forward_head"):
        out = model.forward_head(model.forward_features(images), pre_logits=True)
    else:
        out = model(images)
    if isinstance(out, tuple) and isinstance(out[-1], dict):  # a recogniser tells its head something besides
        out = out[0]
    out = out[-1] if isinstance(out, (tuple, list)) else out
    out = out if out.dim() == 2 else out.flatten(2).mean(2) if out.dim() > 3 else out.mean(1)
    return mean_of_clips(out, len(images))


def mean_of_clips(out: Tensor, samples: int) -> Tensor:
    """``(B, ...)`` of ``(B * clips, ...)``."""
    return out if len(out) == samples else out.unflatten(0, (samples, -1)).mean(1)


def class_scores(model: nn.Module, images: Tensor) -> Tensor:
    """Class scores ``(B, classes)``.

    Raises:
        UserError: The model has no classification head.
    """
    if getattr(model, "with_head", False):
        return model(images, mode="tensor")
    if getattr(model, "with_cls_head", False):
        return mean_of_clips(model(images, mode="tensor", stage="head"), len(images))
    if hasattr(model, "forward_head"):
        return model(images)
    raise UserError(f"{type(model).__name__} has no classification head whose scores could be read.")


class Recorder(nn.Module):
    """Shows every tensor that passes a site to ``look(x, flow)``."""

    def __init__(self, look: Callable[[Tensor, Flow], None]) -> None:
        super().__init__()
        self.look = look

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        self.look(x, flow)
        return x


@contextmanager
def recording(host: Host, looks: Iterable[tuple[Site, Callable[[Tensor, Flow], None]]]) -> Iterator[None]:
    """Within the context, everything placed is switched off, and what leaves some sites of the frozen host is shown.

    A site that is a module must have something placed ``after`` or ``parallel`` (or nothing hooks it).
    """
    every = [site for sites in (host.sites, *(b.sites for b in host.blocks)) for site in sites.values()]
    kept = [(entry, entry.active) for site in every for entry in site.entries]
    added = [(site, Entry("after", Recorder(look), "recorder")) for site, look in looks]
    for entry, _ in kept:
        entry.active = False
    for site, entry in added:
        site.entries.insert(0, entry)
    try:
        yield
    finally:
        for site, entry in added:
            site.entries.remove(entry)
        for entry, active in kept:
            entry.active = active
