"""``vpeft.PEFT``: a backbone with methods attached, from an OpenMMLab config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from vpeft.core.adaptation.attach import attach
from vpeft.errors import UserError
from vpeft.registry import MODELS


@MODELS.register_module(name="PEFT")
def build_adapted(of: str, method: str | Mapping[str, Any] | Sequence[Any], **backbone: Any) -> nn.Module:
    """Build the backbone ``of`` as without PEFT and attach ``method`` to it.

    In a config that has ``backbone=dict(type='VisionTransformer', ...)`` it is enough to add
    ``backbone=dict(type='vpeft.PEFT', of='VisionTransformer', method=dict(type='LoRA'))``; the other keys stay.
    The base's weights are loaded by its ``init_weights`` afterwards, which then gives the PEFT parameters their start.

    Args:
        of: Type of the backbone, in the config's scope.
        method: A method's config, or a list of them.
        **backbone: The backbone's own keys.

    Returns:
        The backbone.

    Raises:
        UserError: A file is given as ``pretrained``, or as the methods and the host raise it.
    """
    from vpeft.core.contract.build import build_methods

    if isinstance(file := backbone.get("pretrained"), str):
        raise UserError(
            f"backbone.pretrained={file!r}: give init_cfg=dict(type='Pretrained', checkpoint={file!r}) instead, "
            "whose loader knows the usual formats (docs/weights.md)."
        )
    methods = build_methods(method)
    module = ROOT_MODELS.build({"type": of, **backbone})
    attach(module, methods)
    return module
