"""Workarounds for other packages, each named after package and version and applied only where it is needed.

Importing this module applies those that concern every use of :mod:`vpeft`; it must therefore be imported before
mmpretrain or timm, and :mod:`vpeft` does so first.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any

import torch

_keep_alive: list[Any] = []


def torchvision_without_ops() -> None:
    """torchvision 0.28 beside a CPU build of torch 2.13: its compiled ops do not load, so importing it fails.

    The import registers fake kernels for two operators that the library would have defined. Their schemas alone
    make everything but the compiled ops work. Nothing is done where the plain import succeeds.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _keep_alive.append(library)
        import torchvision  # noqa: F401


def mmengine_non_reentrant_checkpointing() -> None:
    """mmengine 0.10.12: ``activation_checkpointing`` uses the re-entrant form of torch.

    Over a frozen first block that form gives the adapters inside no gradient, with a warning only.
    """
    from mmengine.runner import activation_checkpointing

    original = torch.utils.checkpoint.checkpoint
    if activation_checkpointing.checkpoint is original:
        activation_checkpointing.checkpoint = functools.partial(original, use_reentrant=False)


def mmpretrain_non_reentrant_checkpointing() -> None:
    """mmpretrain 1.3.6: ``SwinBlock(with_cp=True)`` checkpoints re-entrantly, as above.

    The module's own view of ``torch.utils.checkpoint`` is replaced, not torch's.
    """
    from mmpretrain.models.backbones import swin_transformer

    if isinstance(swin_transformer.cp, types.ModuleType):
        view = types.SimpleNamespace(
            checkpoint=functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
        )
        swin_transformer.cp = view


def mmengine_silent_debug() -> None:
    """mmengine 0.10.12: ``print_log`` without a logger prints messages of the level DEBUG to the standard output.

    mmpretrain, mmdet and mmseg so announce at import an extra that is not installed, and spoil what is piped.
    """
    import logging

    from mmengine import logging as mmengine_logging

    original = mmengine_logging.print_log

    @functools.wraps(original)
    def print_log(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
        if logger is not None or level > logging.DEBUG:
            original(msg, logger, level)

    mmengine_logging.print_log = mmengine_logging.logger.print_log = print_log


def mmengine_safe_load() -> None:
    """mmengine 0.10.12: ``load_checkpoint`` falls back to full unpickling, which can run code from the file.

    Here a file that is no plain checkpoint is refused, and a truncated one is named.
    """
    from pickle import UnpicklingError

    from mmengine.runner import checkpoint

    from vpeft.errors import UserError

    def load(file: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        name = file if isinstance(file, str) else "the checkpoint"
        try:
            with torch.serialization.safe_globals(checkpoint.get_torch_safe_globals()):
                return torch.load(file, map_location=map_location, weights_only=True)
        except UnpicklingError as error:
            raise UserError(
                f"{name} holds objects that only running its code could load, or is no checkpoint "
                f"({str(error).splitlines()[0][:120]}): convert it to tensors (safetensors) where you trust it."
            ) from error
        except (RuntimeError, EOFError) as error:
            raise UserError(
                f"{name} is truncated or no checkpoint ({str(error).splitlines()[0][:120]}): copy or train it again."
            ) from error

    checkpoint._safe_torch_load = load


def mmengine_atomic_write() -> None:
    """mmengine 0.10.12: files are written in place, so a kill or a full disk leaves half a checkpoint behind."""
    from mmengine.fileio.backends import LocalBackend

    from vpeft.files import write_atomically

    def put(self: LocalBackend, obj: bytes, filepath: str) -> None:
        write_atomically(filepath, obj)

    def put_text(self: LocalBackend, obj: str, filepath: str, encoding: str = "utf-8") -> None:
        write_atomically(filepath, obj.encode(encoding))

    LocalBackend.put, LocalBackend.put_text = put, put_text


def mmengine_distributed_on_cpu() -> None:
    """mmengine 0.10.12: its launcher sets a CUDA device even for gloo on a machine without one."""
    from mmengine.dist import utils

    original = utils._init_dist_pytorch

    @functools.wraps(original)
    def init(backend: str, init_backend: str = "torch", **kwargs: Any) -> None:
        if backend == "gloo" and init_backend == "torch" and not torch.cuda.is_available():
            torch.distributed.init_process_group(backend=backend, **kwargs)
        else:
            original(backend, init_backend=init_backend, **kwargs)

    utils._init_dist_pytorch = init


class _Operators(types.ModuleType):
    """In the place of ``mmcv._ext``: what :mod:`vpeft.core.detection_ops` has; anything else says so when called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def operator(*args, **kwargs) -> Any:
            # Not before: mmcv.ops is imported while vpeft is, and would be left half imported by a circle.
            from vpeft.core import detection_ops
            from vpeft.errors import UserError

            if not hasattr(detection_ops, name):
                raise UserError(
                    f"mmcv was installed without its compiled operators, and {name!r} is none of those that vpeft has "
                    "in plain torch: build mmcv with ops (docs/detection.md)."
                )
            return getattr(detection_ops, name)(*args, **kwargs)

        return operator


class _OperatorsFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``mmcv._ext`` where nothing else does."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self) if name == "mmcv._ext" else None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Operators(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def mmcv_without_ops() -> None:
    """mmcv 2.3.6 without compiled ops: mmdet cannot be imported, and an attention that it has warns at import.

    The operators that Cascade Mask R-CNN and RetinaNet need are put in their place. The finder stands last, so that
    compiled operators are used where they exist.
    """
    import warnings

    warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
    sys.meta_path.append(_OperatorsFinder())


class _ShowsOldMMCV(importlib.abc.Loader):
    """Runs mmaction's own loader while ``mmcv.__version__`` reads 2.0.0."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: Any) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        import mmcv

        real = mmcv.__version__
        mmcv.__version__ = "2.0.0"
        try:
            self.loader.exec_module(module)
        finally:
            mmcv.__version__ = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


class _MMActionFinder(importlib.abc.MetaPathFinder):
    """Finds ``mmaction`` as it is, with the loader above."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name != "mmaction":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ShowsOldMMCV(spec.loader)
        return spec


def mmaction_on_new_mmcv() -> None:
    """mmaction2 1.1.0: it refuses mmcv from 2.1 on at import, and runs with 2.3.6."""
    sys.meta_path.insert(0, _MMActionFinder())


torchvision_without_ops()
mmengine_silent_debug()  # before anything imports mmpretrain
mmcv_without_ops()
mmaction_on_new_mmcv()
mmengine_non_reentrant_checkpointing()
mmpretrain_non_reentrant_checkpointing()
mmengine_safe_load()
mmengine_distributed_on_cpu()
mmengine_atomic_write()
