"""Building models without memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine import Config
from torch import nn
from torch.overrides import TorchFunctionMode

from vpeft.core.models.channels import check_channels
from vpeft.errors import UserError


class _NumbersOnCPU(TorchFunctionMode):
    """Schedules (of DropPath) are read back as numbers while a model is built, so they need real memory."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@contextmanager
def meta_build() -> Iterator[None]:
    """Within the context, modules are built on the meta device: shapes without values, in no time."""
    with torch.device("meta"), _NumbersOnCPU():
        yield


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, with its data preprocessor, without weights.

    Raises:
        UserError: The config has no model, or its neck or heads do not fit its backbone.
    """
    from mmengine.registry import MODELS, init_default_scope

    if "model" not in cfg:
        raise UserError(f"config {cfg.filename} has no `model`.")
    init_default_scope(cfg.get("default_scope", "mmengine"))
    settings = cfg.model.copy()
    if cfg.get("data_preprocessor") is not None:
        settings.setdefault("data_preprocessor", cfg.data_preprocessor)
    model = MODELS.build(settings)
    check_channels(model)
    return model
