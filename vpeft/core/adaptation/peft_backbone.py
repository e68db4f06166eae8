"""``vpeft.PEFT``: a backbone with methods attached, from an OpenMMLab config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from vpeft.core.adaptation.attach import attach
from vpeft.core.adaptation.base_weights import NEVER, RANDOM
from vpeft.core.adaptation.values.base_dtype import named_base_dtype
from vpeft.errors import UserError
from vpeft.registry import MODELS

#: The type of an adapted backbone in a config.
TYPES = ("vpeft.PEFT", "PEFT")
#: The type of a library's network in a config; its own ``of`` is such a name as ``timm/vit_base_patch14_dinov2``.
NETWORK = "vpeft.Backbone"
#: The same on clips, where the name stands in ``image``, in whose place a config may stand too.
CLIPS = "vpeft.ClipBackbone"
#: What a vpeft.PEFT has beside the backbone's own settings.
_OWN = ("type", "of", "method", "base", "dtype", "base_dtype")


@MODELS.register_module(name="PEFT")
def build_adapted(
    of: str,
    method: str | Mapping[str, Any] | Sequence[Any],
    base: str | None = None,
    dtype: torch.dtype | str | None = None,
    base_dtype: Any = None,
    **backbone: Any,
) -> nn.Module:
    """Build the backbone ``of`` as without PEFT and attach ``method`` to it.

    In a config that has ``backbone=dict(type='VisionTransformer', ...)`` it is enough to add
    ``backbone=dict(type='vpeft.PEFT', of='VisionTransformer', method=dict(type='LoRA'))``; the other keys stay.
    The base's weights are loaded by its ``init_weights`` afterwards, which then gives the PEFT parameters their start.

    With ``backbone=dict(type='vpeft.Backbone', of='timm/...')`` its type alone is replaced: ``of`` stays.

    Args:
        of: Type of the backbone, in the config's scope; or the name of a library's network, which is
            ``vpeft.Backbone``'s.
        method: A method's config, or a list of them.
        base: ``"random"`` says that a frozen base without pretrained weights is meant, as in tests; otherwise one that
            gets no weights from anywhere is refused before it is trained, saved or asked.
        dtype: Precision of the adapter, as ``'bfloat16'``; None means the base's, but float32 on a half base.
        base_dtype: What the frozen base is kept in, as ``'bfloat16'`` or ``'int8'`` (docs/options.md); None leaves
            it as it is.
        **backbone: The backbone's own keys.

    Returns:
        The backbone.

    Raises:
        UserError: A file is given as ``pretrained``, ``base`` is something else or stands beside a file, or as the
            methods and the host raise it.
    """
    from vpeft.core.contract.build import build_methods

    if isinstance(file := backbone.get("pretrained"), str):
        raise UserError(
            f"backbone.pretrained={file!r}: give init_cfg=dict(type='Pretrained', checkpoint={file!r}) instead, "
            "whose loader knows the usual formats (docs/weights.md)."
        )
    if base not in (None, RANDOM):
        raise UserError(f"base={base!r} of vpeft.PEFT: it is 'random' or left out; a file is named in init_cfg.")
    methods = build_methods(method)
    plain = plain_settings({"of": of, **backbone})
    if base == RANDOM and (kept := named_base_dtype(base_dtype)) is not None and kept.bits:
        raise UserError(
            f"base_dtype={base_dtype!r} of vpeft.PEFT beside base='random': a random base is stored with its adapter, "
            "in floating point: take 'bfloat16', or pretrained weights."
        )
    if base == RANDOM and is_network(plain):
        plain.setdefault("weights", False)
    module = ROOT_MODELS.build(plain)
    is_loaded = getattr(module, "is_init", False)  # some load their weights as they are built
    for adaptation in attach(module, methods, dtype=dtype, base_dtype=base_dtype):
        if base == RANDOM and (named := adaptation.base.named()):
            raise UserError(f"base='random' of vpeft.PEFT beside the file {named['checkpoint']}: leave one out.")
        if base == RANDOM or not is_loaded:
            adaptation.base.start(base or NEVER)
    return module


def plain_settings(adapted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the backbone that those of a ``vpeft.PEFT`` are of: the same without PEFT."""
    plain = {key: value for key, value in adapted.items() if key not in _OWN}
    of = adapted["of"]
    return {"type": NETWORK, "of": of, **plain} if isinstance(of, str) and "/" in of else {"type": of, **plain}


def is_network(plain: Mapping[str, Any]) -> bool:
    """Whether a plain backbone's settings name a network of a library, whose file is then named by ``weights``."""
    return plain.get("type") == NETWORK or (plain.get("type") == CLIPS and isinstance(plain.get("image"), str))


def adapted_settings(plain: Mapping[str, Any], method: Any) -> dict[str, Any]:
    """The inverse: settings of a ``vpeft.PEFT`` with a method on a config's plain backbone."""
    rest = {key: value for key, value in plain.items() if key not in ("type", "of")}
    return {"type": TYPES[0], "of": plain.get("of", plain["type"]), "method": method, **rest}


def peft_places(cfg: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The adapted backbones of a config: their settings by dotted key, such as ``model.backbone``."""

    def walk(key: str, node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(node, Mapping) and node.get("type") in TYPES:
            yield key, node
        inner = (
            node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
        )
        for name, value in inner:
            yield from walk(f"{key}.{name}", value)

    return dict(walk("model", cfg.get("model") or {}))


def find_peft(cfg: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where the methods stand in a config: dotted key and settings (``of``, ``method``, ...) of its backbone.

    Both are empty where a config adapts nothing; of several towers it is the first (:func:`peft_places` has all).
    """
    return next(iter(peft_places(cfg).items()), ("", {}))


def methods_of(cfg: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The methods' settings of a config; empty where there is none."""
    return [dict(method) for method in stated_methods(find_peft(cfg)[1])]


def stated_methods(settings: Mapping[str, Any]) -> list[Any]:
    """What an adapted backbone's settings state under ``method``, as a list; a name alone becomes its config."""
    methods = settings.get("method", [])
    methods = methods if isinstance(methods, (list, tuple)) else [methods]
    return [{"type": method} if isinstance(method, str) else method for method in methods]
