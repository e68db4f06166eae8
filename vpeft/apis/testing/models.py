"""Tiny backbones with random weights, and how to read all that they put out."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.apis.testing.hosts import Shape, tiny_of
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.backbones.sites.passes import FOLDS_CLIPS
from vpeft.core.backbones.sites.stated_linear import StatedLinear

#: Variants that are gone through with every method besides the hosts: image backbones on the frames of clips.
ON_CLIPS = ("timm.VisionTransformer/clips", "mmpretrain.VisionTransformer/clips")
_UNFELT = re.compile(r"(\.meta_mlp\.fc2|\.proj_l|\.k_norm|(cls_attn_blocks|blocks_token_only)\.\d+\.attn\.k)\.bias$")
_SCALES = re.compile(r"\.qkv\w*\.(magnitude|scale)\.[qk]$")
_CALLS: dict[type, Callable[[nn.Module, Tensor], Any]] = {}
#: ``torch.manual_seed`` of the CPU alone: that of all devices keeps its stack each time, which takes as long as a pass.
seeded = torch.default_generator.manual_seed


def build(host: str, dtype: torch.dtype = torch.float64, **options) -> nn.Module:
    """A tiny host, or ``<host>/<variant>``, in eval mode with random weights, none at a value that hides an error."""
    seeded(0)
    stated = tiny_of(host)
    model = stated.build(**options).to(dtype)
    if stated.call:
        _CALLS[type(model)] = stated.call
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn_like(param) * 0.05)
    model.eval()
    return model


def again(host: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A copy of what :func:`build` gives: tests that take the same host one after the other build it once."""
    return _copies(host, dtype)()


@functools.lru_cache(maxsize=4)
def _copies(host: str, dtype: torch.dtype) -> Callable[[], nn.Module]:
    """What makes copies of a host by unpickling, a few times as fast as :func:`copy.deepcopy`."""
    model, tensors, written = build(host, dtype), [], io.BytesIO()
    pickler, places = pickle.Pickler(written), {}

    def place_of(one: Any) -> int | None:
        if not isinstance(one, Tensor):
            return None
        if id(one) not in places:
            places[id(one)] = len(tensors)
            tensors.append(one)
        return places[id(one)]

    pickler.persistent_id = place_of
    try:
        pickler.dump(model)
    except (pickle.PicklingError, AttributeError, TypeError):  # a function without a name of its own
        return functools.partial(copy.deepcopy, model)

    def unpickled() -> nn.Module:
        unpickler = pickle.Unpickler(io.BytesIO(written.getbuffer()))
        unpickler.persistent_load = list(map(_cloned, tensors)).__getitem__
        return unpickler.load()

    return unpickled


def _cloned(tensor: Tensor) -> Tensor:
    if type(tensor) is nn.Parameter:
        return nn.Parameter(tensor.detach().clone(), tensor.requires_grad)
    return tensor.clone() if type(tensor) is Tensor else copy.deepcopy(tensor)


def inputs(
    host: str, count: int = 2, dtype: torch.dtype = torch.float32, *, shape: Shape | None = None, seed: int = 5
) -> Tensor:
    """A batch that the host takes; ``shape`` is of one input."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *(shape or tiny_of(host).shape), dtype=dtype, generator=generator)


def tokens(model: nn.Module, images: Tensor, seed: int = 0) -> Tensor:
    """All output tokens: what every trained parameter can be seen in.

    Several outputs (tuples, mappings, outputs of transformers, nested) become one row for each input.
    """
    seeded(2654435761 * (seed + 1) % 2**32)  # small seeds alike draw alike
    call = _CALLS.get(getattr(type(model), "plain_class", type(model)))
    if getattr(model, FOLDS_CLIPS, False) and images.dim() == 5:
        out = on_frames(model, images)
    elif call:
        out = call(model, images)
    else:
        out = model.forward_features(images) if hasattr(model, "forward_features") else model(images)
    found = list(_tensors(out))
    return found[0] if found[0] is out else torch.cat([one.reshape(len(images), -1) for one in found], 1)


def on_frames(model: nn.Module, clips: Tensor) -> Any:
    """An image backbone on clips ``(B, 3, T, H, W)``, as ``vpeft.ClipBackbone`` runs it, with all tokens."""
    images, adaptation = clips.transpose(1, 2).flatten(0, 1), vars(model).get("peft_adaptation")
    with adaptation.host.passes.clips(clips.shape[2]) if adaptation else contextlib.nullcontext():
        return model.forward_features(images) if hasattr(model, "forward_features") else model(images)


def _tensors(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, (Mapping, tuple, list)):
        for one in out.values() if isinstance(out, Mapping) else out:
            yield from _tensors(one)


def perturb(model: nn.Module, scale: float = 0.1, seed: int = 7) -> nn.Module:
    """Move every trained parameter away from its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in model.parameters():
            if param.requires_grad:
                param.add_(torch.randn(param.shape, generator=generator, dtype=param.dtype) * scale)
    return model


def loss(out: Tensor) -> Tensor:
    """A scalar that weighs every output with a number of its own."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (out * weights.to(out.dtype)).sum()


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    adaptation = get_adaptation(model)
    return tuple(f"{name}." for name in adaptation.host.heads()) if adaptation else ()


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trained parameters of the backbone by key, its head left out."""
    heads = head_prefixes(model)
    return {k: p for k, p in model.named_parameters() if p.requires_grad and not (heads and k.startswith(heads))}


def key_biases(model: nn.Module) -> set[str]:
    """Biases that shift all scores of a row alike: they cancel in the softmax, and their gradient is rounding.

    Those of keys alone, in class attention too, those of the norms behind MViT's pooled keys, the last of the network
    that makes timm's Swin V2 CR its relative positions, and that of the linear over CaiT's heads ahead of the softmax.
    Of a method's modules, what they name in ``cancelled``, as a shift that a batch norm behind takes away.
    """
    every = get_adaptation(model).host.blocks
    linears = [b.sites["qkv"].module for b in every if b.kind.free_keys and "qkv" in b.sites]
    found = {id(linear.biases[1]) for linear in linears if isinstance(linear, StatedLinear) and len(linear.biases) == 3}
    attentions = [getattr(b.module, "attn", None) for b in every if not b.kind.full_keys]
    found |= {id(attn.norm_k.bias) for attn in attentions if getattr(attn, "norm_k", None) is not None}
    inside = [getattr(b.module, "attention", None) for b in every]  # InternVL's, whose norms may be left out
    found |= {id(attn.k_proj.bias) for attn in inside if isinstance(getattr(attn, "k_norm", None), nn.Identity)}
    for block in every:
        if "qkv" in block.sites and block.kind.unit_keys and getattr(block.sites["qkv"].module, "bias", None) is None:
            own = block.module.named_parameters()  # a scale of the channels of q and k
            found |= {id(param) for key, param in own if _SCALES.search(key)}
    found |= {id(m.get_parameter(key)) for m in model.modules() for key in getattr(m, "cancelled", ())}
    named = model.named_parameters()
    return {key for key, param in named if id(param) in found or _UNFELT.search(key)}


def clone(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)
