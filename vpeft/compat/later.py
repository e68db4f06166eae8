"""What modules of other packages import at the top for single classes: it waits until those are used.

With it come scikit-learn, scipy, matplotlib, transformers and numba: seconds, for what few runs need.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import importlib.util
import types
from collections.abc import Iterator, Sequence
from typing import Any

from vpeft.compat.waiting import while_importing

_HUNGARIAN = ["scipy.optimize"]
_PLOTS = ["matplotlib.colors", "matplotlib.pyplot"]
#: By module, what it imports and calls nowhere but in functions. onedl-mmdetection 3.5.1, onedl-mmsegmentation 1.4.2,
#: mmaction2 1.1.0; a module or an import that is not there does no harm.
LATER = {
    "mmdet.datasets.transforms.generate_line": [
        "imgaug.augmenters",
        "imgaug.augmentables.lines",
        "imgaug.augmentables.segmaps",
        "scipy.interpolate",
    ],
    "mmdet.datasets.transforms.text_transformers": ["transformers"],
    "mmdet.datasets.transforms.transforms": ["imagecorruptions"],
    "mmdet.evaluation.metrics.crowdhuman_metric": ["scipy.sparse", "scipy.sparse.csgraph"],
    "mmdet.evaluation.metrics.culane_metric": ["scipy.interpolate", "scipy.optimize"],
    "mmdet.models.dense_heads.atss_vlfusion_head": ["transformers"],
    "mmdet.models.dense_heads.clr_head.clr_head": ["matplotlib.pyplot"],
    "mmdet.models.dense_heads.clr_head.lane": ["scipy.interpolate"],
    "mmdet.models.dense_heads.paa_head": ["sklearn.mixture"],
    "mmdet.models.language_models.bert": ["transformers"],
    "mmdet.models.task_modules.assigners.hungarian_assigner": _HUNGARIAN,
    "mmdet.models.task_modules.assigners.topk_hungarian_assigner": _HUNGARIAN,
    "mmdet.models.task_modules.tracking.aflink": _HUNGARIAN,
    "mmdet.models.task_modules.tracking.interpolation": [
        "sklearn.gaussian_process",
        "sklearn.gaussian_process.kernels",
    ],
    "mmdet.models.task_modules.tracking.kalman_filter": ["scipy.linalg"],
    "mmdet.models.trackers.sort_tracker": _HUNGARIAN,
    "mmdet.utils.mot_error_visualize": [*_PLOTS, "matplotlib.patches"],
    "mmdet.visualization.local_visualizer": _PLOTS,
    "mmseg.datasets.transforms.transforms": ["scipy.ndimage"],
    "mmseg.models.assigners.hungarian_assigner": _HUNGARIAN,
    "mmseg.models.backbones.beit": ["scipy"],
    "mmseg.models.backbones.timm_backbone": ["timm"],
    "mmseg.models.losses.huasdorff_distance_loss": ["scipy.ndimage"],
    "mmaction.datasets.transforms.pose_transforms": ["scipy.stats"],
}


class Later:
    """A module or a name in it, imported when it is called or filled."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Later:
        if name.startswith("__"):
            raise AttributeError(name)
        return Later(f"{self._name}.{name}")

    def __call__(self, *args, **kwargs) -> Any:
        return self._found()(*args, **kwargs)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._found()[key] = value

    def _found(self) -> Any:
        place, *rest = self._name.split(".")
        found = importlib.import_module(place)
        for name in rest:
            place = f"{place}.{name}"
            if not hasattr(found, name):
                importlib.import_module(place)
            found = getattr(found, name)
        return found


def imports_wait() -> None:
    """Let what the table names wait."""
    for name, later in LATER.items():
        while_importing(name, functools.partial(_standing_for, later))


@contextlib.contextmanager
def _standing_for(later: Sequence[str], module: types.ModuleType) -> Iterator[None]:
    """Stand for what one module imports while it is loaded, where that exists; what it imports else sees nothing of it.

    An import statement asks the builtins of its own module.
    """

    def import_module(name: str, globals: Any = None, locals: Any = None, names: Any = (), level: int = 0) -> Any:
        package = name.partition(".")[0]
        if level == 0 and name in later and importlib.util.find_spec(package) is not None:
            return Later(name if names else package)
        return builtins.__import__(name, globals, locals, names, level)

    own = module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_module}
    yield
    own["__import__"] = builtins.__import__
