"""Registries: children of mmengine's under the scope ``vpeft``, and our own for methods, hosts and block kinds."""

from __future__ import annotations

from collections.abc import Iterable

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import Registry

from vpeft.errors import closest

#: What needs mmpretrain is imported when it is first asked for.
_IMAGENET, _HEAD = "vpeft.core.datasets.classification.imagenet", "vpeft.core.models.embedding_head"

MODELS = Registry("model", parent=MMENGINE_MODELS, scope="vpeft", locations=[_HEAD])
DATASETS = Registry("dataset", parent=MMENGINE_DATASETS, scope="vpeft", locations=[_IMAGENET])
TRANSFORMS = Registry("transform", parent=MMENGINE_TRANSFORMS, scope="vpeft")
METRICS = Registry("metric", parent=MMENGINE_METRICS, scope="vpeft", locations=[_IMAGENET])
HOOKS = Registry("hook", parent=MMENGINE_HOOKS, scope="vpeft")
VISUALIZERS = Registry("visualizer", parent=MMENGINE_VISUALIZERS, scope="vpeft")
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor", parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS, scope="vpeft"
)

#: PEFT algorithms by their names (:class:`vpeft.core.contract.method.Method`).
PEFT_METHODS = Registry("PEFT method", scope="vpeft")
#: Hosts by ``<package>.<backbone>`` (:class:`vpeft.core.backbones.host.Host`).
HOSTS = Registry("host", scope="vpeft")
#: Block kinds by ``<package>.<block>`` (:class:`vpeft.core.backbones.block_forward.SiteBlock`).
BLOCKS = Registry("block kind", scope="vpeft")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown ``name``: the nearest known one, and the whole list.

    Args:
        name: What was asked for.
        known: What exists.

    Returns:
        ``did you mean 'LoRA'? Known: ...``, without the question where nothing is near.
    """
    known = sorted(known)
    close = closest(name, known)
    return f"{'' if close is None else f'did you mean {close!r}? '}Known: {', '.join(known)}."
