"""Registries: children of mmengine's under the scope ``vpeft``, and our own for methods, hosts and block kinds.

Each knows where what it holds is registered, and imports that when it is first asked.
"""

from __future__ import annotations

from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS, Registry
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS

from vpeft.errors import UserError
from vpeft.errors import nearest as nearest

#: What needs mmpretrain is there alone.
_IMAGENET, _HEAD = "vpeft.core.datasets.classification.imagenet", "vpeft.core.models.embedding_head"
_METHODS, _HOSTS, _DATA = "vpeft.algorithms", "vpeft.core.backbones.hosts", "vpeft.core.datasets"
_MAPS = ["vpeft.core.models.maps", "vpeft.core.models.feature_pyramid", "vpeft.core.models.clips"]


class WholeRegistry(Registry):
    """A registry that nobody sees half filled: looking at all that it holds imports where that is registered."""

    @property
    def module_dict(self) -> dict[str, Any]:
        """What is registered, by name."""
        self.import_from_location()
        return super().module_dict

    def __len__(self) -> int:
        return len(self.module_dict)

    def _register_module(self, module: Any, module_name: str | list[str] | None = None, force: bool = False) -> None:
        """Register, or refuse a taken name in one line.

        Raises:
            UserError: Another is registered under the name.
        """
        if not str(getattr(module, "__module__", "")).startswith("vpeft."):
            self.import_from_location()  # else what comes later, from here, would be refused in a stranger's place
        names = [module_name] if isinstance(module_name, str) else module_name or [module.__name__]
        for name in names:
            if not force and name in self._module_dict:
                there = self._module_dict[name]
                raise UserError(
                    f"the {self.name} {name!r} is registered already, by {there.__module__}.{there.__qualname__}: give "
                    f"{module.__module__}.{module.__qualname__} another name (register_module(name=...)), or put it in "
                    "that one's place (register_module(force=True))."
                )
        super()._register_module(module, module_name, force)


MODELS = Registry(
    "model",
    parent=MMENGINE_MODELS,
    scope="vpeft",
    locations=["vpeft.core.adaptation.peft_backbone", *_MAPS, _METHODS, _HEAD],
)
DATASETS = Registry("dataset", parent=MMENGINE_DATASETS, scope="vpeft", locations=[_DATA, _IMAGENET])
TRANSFORMS = Registry("transform", parent=MMENGINE_TRANSFORMS, scope="vpeft", locations=[_DATA])
METRICS = Registry("metric", parent=MMENGINE_METRICS, scope="vpeft", locations=[_IMAGENET])
HOOKS = Registry(
    "hook",
    parent=MMENGINE_HOOKS,
    scope="vpeft",
    locations=["vpeft.core.hooks", "vpeft.extension.attention.hook"],
)
VISUALIZERS = Registry("visualizer", parent=MMENGINE_VISUALIZERS, scope="vpeft")
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope="vpeft",
    locations=["vpeft.core.adaptation.training.parameter_groups"],
)

#: PEFT algorithms by their names (:class:`vpeft.core.contract.method.Method`).
PEFT_METHODS = WholeRegistry("PEFT method", scope="vpeft", locations=[_METHODS])
#: Hosts by ``<package>.<backbone>`` (:class:`vpeft.core.backbones.host.Host`).
HOSTS = WholeRegistry("host", scope="vpeft", locations=[_HOSTS])
#: Block kinds by ``<package>.<block>`` (:class:`vpeft.core.backbones.block_forward.SiteBlock`).
BLOCKS = WholeRegistry("block kind", scope="vpeft", locations=[_HOSTS])


@FUNCTIONS.register_module(name="vpeft_keep_seed")
def keep_seed(worker_id: int, **kwargs) -> None:
    """A worker initialiser that leaves torch's own seeding of Python, numpy and torch as it is.

    It differs from epoch to epoch and follows from the main process; mmengine's is the same in every epoch. It stands
    here because the registry of functions looks nowhere.
    """
