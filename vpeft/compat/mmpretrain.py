"""Mends of mmpretrain."""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from vpeft.compat.waiting import after_import, hidden, while_importing


def mmpretrain_non_reentrant_checkpointing() -> None:
    """mmpretrain 1.3.6: ``SwinBlock(with_cp=True)`` checkpoints re-entrantly, as mmengine does.

    The module's own view of ``torch.utils.checkpoint`` is replaced, not torch's.
    """
    after_import("mmpretrain.models.backbones.swin_transformer", _mend)


def _mend(module: types.ModuleType) -> None:
    import torch

    if isinstance(module.cp, types.ModuleType):
        checkpoint = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
        module.cp = types.SimpleNamespace(checkpoint=checkpoint)


def mmpretrain_imports_mmdet_later() -> None:
    """mmpretrain 1.3.6: importing its models imports mmdet, and with it scikit-learn, scipy and transformers, for one
    layer of detectors.

    The layer is there once mmdet's models are.
    """
    while_importing("mmpretrain.models.utils.res_layer_extra_norm", _layer_later)


@contextlib.contextmanager
def _layer_later(module: types.ModuleType) -> Iterator[None]:
    with hidden("mmdet") as is_hidden:
        yield

    def define(_: types.ModuleType) -> None:
        module.__loader__.exec_module(module)
        if utils := sys.modules.get("mmpretrain.models.utils"):
            utils.ResLayerExtraNorm = module.ResLayerExtraNorm

    if is_hidden:
        after_import("mmdet.models", define)


#: Those whose last lines import what needs transformers, where that is installed.
_OF_IMAGES_AND_TEXT = ("mmpretrain.models.utils", "mmpretrain.models.multimodal")


def mmpretrain_imports_multimodal_later() -> None:
    """mmpretrain 1.3.6: importing its models imports transformers, for those of images and text, even for a ViT.

    They are imported when one of their names is first asked for: of a module, or of a registry that knows no such name.
    """
    for name in _OF_IMAGES_AND_TEXT:
        while_importing(name, _multimodal_later)
    after_import("mmpretrain.models", lambda module: _ask_later(module, _load_multimodal))
    after_import("mmpretrain.registry", _register_later)


@contextlib.contextmanager
def _multimodal_later(module: types.ModuleType) -> Iterator[None]:
    """As where the extra is not installed, but without functions in the place of its models that say so."""
    from mmpretrain.utils import dependency

    if not dependency.WITH_MULTIMODAL or "transformers" in sys.modules:
        yield
        return
    kept = dependency.register_multimodal_placeholder
    dependency.WITH_MULTIMODAL, dependency.register_multimodal_placeholder = False, lambda names, registry: None
    try:
        yield
    finally:
        dependency.WITH_MULTIMODAL, dependency.register_multimodal_placeholder = True, kept

    _ask_later(module, lambda: _rest_of(module))


def _ask_later(module: types.ModuleType, load: Callable[[], object]) -> None:
    """Let a module's unknown names be looked for once more behind ``load()``."""

    def ask(name: str) -> Any:
        if not name.startswith("__") and importlib.util.find_spec(f"{module.__name__}.{name}") is None:
            del module.__getattr__
            load()
            if name in module.__dict__:
                return module.__dict__[name]
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__getattr__ = ask


def _rest_of(module: types.ModuleType) -> None:
    """Run a module again, whole; what it has imported stays as it is."""
    importlib.machinery.SourceFileLoader(module.__name__, module.__file__).exec_module(module)


def _load_multimodal() -> None:
    for name in (*_OF_IMAGES_AND_TEXT, "mmpretrain.models"):
        _rest_of(importlib.import_module(name))


def _register_later(registry: types.ModuleType) -> None:
    for one in (registry.MODELS, registry.TOKENIZER):
        one.get = functools.partial(_get, one)


def _get(registry: Any, key: str) -> Any:
    """``registry.get(key)``, where need be behind the rest of the models."""
    get = type(registry).get
    with contextlib.suppress(RuntimeError):
        if (found := get(registry, key)) is not None:
            return found
    registry.__dict__.pop("get", None)
    _load_multimodal()
    return get(registry, key)
