"""The life of an adapter, from Python."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.apis.hf_peft import load_peft
from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.attach import attach as attach_methods
from vpeft.core.adaptation.attach import backbone_names
from vpeft.core.adaptation.find import adaptations, find_adaptations
from vpeft.core.adaptation.several.adapters import Adapters, adapters_of
from vpeft.core.adaptation.storing.adapter_file import backbones, pairs, put_adapter, read_adapter, save_adapter
from vpeft.core.adaptation.storing.fit import check_methods
from vpeft.core.adaptation.training.unheard import listen
from vpeft.core.adaptation.undo import undone_on_error
from vpeft.core.adaptation.values.precision import named_dtype
from vpeft.core.adaptation.wrappers import plain_keys, unwrap
from vpeft.core.backbones.generic import NAME as GENERIC
from vpeft.core.backbones.host import is_peft_key
from vpeft.core.backbones.kept.few_bits import dense
from vpeft.core.contract.build import build_methods
from vpeft.core.contract.method import Method
from vpeft.errors import UserError

__all__ = [
    "adapter_names",
    "attach",
    "detach",
    "disabled",
    "drop_adapter",
    "load_adapter",
    "merge",
    "plain_state_dict",
    "save_adapter",
    "unmerge",
    "use",
]

MethodConfig = str | Mapping[str, Any] | Method | Sequence[Any]


def attach(
    model: nn.Module,
    cfg: MethodConfig,
    backbone: str | Sequence[str] | None = None,
    dtype: torch.dtype | str | None = None,
    sample: Any = None,
    name: str | None = None,
    base_dtype: Any = None,
) -> nn.Module:
    """Attach one method or several to the backbone inside ``model``, in place, after its weights were loaded.

    The base is frozen but for what the methods train; whatever lies outside the backbone stays trainable. Every other
    call of this page serves all backbones of the model that were adapted.

    Args:
        model: A model that contains a host (``tools/list.py hosts``), or the backbone itself.
        cfg: ``dict(type='LoRA', rank=8)``, a name, a method, or a list of these.
        backbone: Dotted name of the backbone in a model that contains several, such as ``'visual'``; a list of names
            adapts each of them.
        dtype: Precision of the adapter, as ``torch.bfloat16`` or ``'bfloat16'``; None means the base's, but float32 on
            a half base, where small steps would vanish in rounding. ``model.half()`` and the like convert it later.
        sample: For a network that no host reads (docs/hosts.md): with what the model can be called, as a tensor, a
            tuple of arguments, a dict of keywords, or a function of the model. None guesses an image.
        name: A name for the adapter. Where there is one already, a further one is attached to the same base, and
            answers from now on (:func:`use`).
        base_dtype: Precision that the frozen base is kept in from now on, as ``'bfloat16'``, ``'int8'`` or
            ``['int4', 'bfloat16']`` (docs/options.md): its parameters are converted in place, those that the method
            trains are float32, and what enters and leaves the base is as before. None leaves it as it is; a further
            adapter takes the base as it is.

    Returns:
        The same model.

    Raises:
        UserError: Unknown method, host, hyper-parameter or backbone, or several backbones and none is named; the model
            is unchanged then.
    """
    methods = build_methods(cfg)
    if name is not None and adaptations(model):
        _same_backbone(model, backbone)
        if base_dtype is not None:
            raise UserError(
                f"base_dtype={base_dtype!r}: the base has an adapter already, and stays as it is: leave it out."
            )
        adapters_of(model).add(model, name, methods, named_dtype(dtype))
        listen(model)
        return model
    attach_methods(model, methods, backbone, dtype, sample, base_dtype)
    if name is not None:
        Adapters(model, name)
    listen(model)
    return model


def detach(model: nn.Module, restore: bool = True) -> nn.Module:
    """Take the adapter off, in place.

    Args:
        model: A model with a method attached.
        restore: Give the base its own weights back, bit-equal, and the head that the backbone holds inside (timm does)
            as it was when the method was attached. False keeps merged and trained weights.
    """
    found = find_adaptations(model).values()
    for adaptation in found if restore else ():
        adaptation.check_restorable()  # all or none
    for adaptation in found:
        adaptation.detach(restore)
    return model


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Within the context, ``model`` is the frozen base: ``with vpeft.disabled(model): ...``.

    It is a switch of the model, not of the thread: passes of other threads meet the base too.
    """
    with ExitStack() as stack:
        for adaptation in find_adaptations(model).values():
            stack.enter_context(adaptation.disabled())
        yield model


def merge(model: nn.Module) -> list[str]:
    """Fold the adapter into the weights, in place (:meth:`vpeft.core.adaptation.adaptation.Adaptation.merge`).

    Where a weighted sum of adapters answers, or one at a strength (:func:`use`), that is what is merged.

    Returns:
        Keys of methods of which something stays in place; empty when the plain backbone now does it all.

    Raises:
        UserError: Nothing of the method can be merged, or adapters answer sample by sample.
    """
    done: list[Adaptation] = []
    left: set[str] = set()
    try:
        for adaptation in find_adaptations(model).values():
            left |= set(adaptation.merge())
            done.append(adaptation)
    except UserError:
        for adaptation in done:  # all or none
            if adaptation.merged:
                adaptation.unmerge()
        raise
    return sorted(left)


def unmerge(model: nn.Module) -> nn.Module:
    """Undo :func:`merge`, bit for bit."""
    found = find_adaptations(model).values()
    for adaptation in [one for one in found if one.merged] or found:
        adaptation.unmerge()
    return model


def plain_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without any PEFT key: strictly what the plain model has, weights of few bits read whole."""
    model = unwrap(model)
    state = model.state_dict()
    return {plain: dense(state[key]) for key, plain in plain_keys(model, state).items() if not is_peft_key(plain)}


def load_adapter(
    model: nn.Module,
    path: str | os.PathLike[str],
    backbone: str | Sequence[str] | None = None,
    sample: Any = None,
    name: str | None = None,
) -> nn.Module:
    """Load an adapter file onto its base, in place.

    Args:
        model: The plain model with the base weights (the methods are attached then), or one on which exactly the
            file's methods are attached.
        path: A file written by :func:`save_adapter`; or a folder of HuggingFace's peft, of LoRA.
        backbone: As in :func:`attach`, where the model contains several backbones and the file's name for its own is
            none of theirs.
        sample: As in :func:`attach`.
        name: A name for the adapter. Where there is one already it is a further one, with a head of its own, of another
            number of classes too (:func:`use`).

    Raises:
        UserError: The file is broken, or belongs to another host, base or method. The model is unchanged then, as
            after any other error.
    """
    if Path(path).is_dir():
        load_peft(model, path, backbone, sample)
        if name is not None:
            Adapters(model, name)
        return model
    tensors, metadata = read_adapter(path)
    if name is not None and adaptations(model):
        _same_backbone(model, backbone)
        _load_further(model, tensors, metadata, str(path), name)
        listen(model)
        return model
    with undone_on_error(model):
        if not adaptations(model):
            for prefix, theirs in backbones(metadata).items():
                where = backbone if backbone is not None else prefix.removesuffix(".") or None
                try:
                    methods = build_methods(theirs["methods"])
                except UserError as error:
                    raise UserError(f"{path}: {error}") from error
                known = backbone or where in backbone_names(model) or theirs["host"]["name"] == GENERIC
                attach_methods(model, methods, where if known else None, sample=sample)
        for _, adaptation, theirs in pairs(model, metadata, str(path)):
            check_methods(adaptation.methods.values(), theirs["methods"], str(path))
            if adaptation.merged:
                raise UserError(f"{path}: the present adapter is merged: unmerge or detach it first.")
        put_adapter(model, tensors, metadata, str(path))
        if name is not None:
            Adapters(model, name)
    listen(model)
    return model


def _same_backbone(model: nn.Module, backbone: str | Sequence[str] | None) -> None:
    """Refuse a further adapter for another backbone than the one that has adapters."""
    own = adapters_of(model).prefix.removesuffix(".")
    if backbone is not None and backbone not in (own, [own]):
        raise UserError(f"backbone={backbone!r}: further adapters are for {own or 'the model itself'}, which has some.")


def _load_further(
    model: nn.Module, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], path: str, name: str
) -> None:
    """Load an adapter beside those that are there."""
    adapters = adapters_of(model)
    before = adapters.active
    try:
        methods = build_methods(metadata["methods"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    adapters.add(model, name, methods)
    try:
        shapes = {adapters.prefix + k.removeprefix(metadata["prefix"]): v.shape for k, v in tensors.items()}
        adapters.fit_head(name, {**shapes, **{key: value.shape for key, value in tensors.items()}})
        put_adapter(model, tensors, metadata, path)
    except BaseException:
        adapters.use(before)
        adapters.drop(name)
        raise


def use(
    model: nn.Module, which: str | Mapping[str, float] | Sequence[str | None] | None, head: str | None = None
) -> nn.Module:
    """Let one of several named adapters answer, in place; nothing of the base is copied or computed.

    Args:
        model: A model with adapters that were given names (``name=`` of :func:`attach` and :func:`load_adapter`).
        which: A name; None for the base alone; weights by name, as ``{"pets": 0.5}`` for half its strength or
            ``{"pets": 0.7, "cars": 0.3}`` for a sum where adapters add something affine (LoRA); or a list that names an
            adapter, or None, for every sample of the batches to come: the frozen part then runs once for all of them,
            and where heads tell different numbers of classes apart, further scores are ``-inf``.
        head: Whose head answers for a sum of several.

    Returns:
        The same model.

    Raises:
        UserError: No such adapter, or the methods cannot be summed or mixed; the base alone answers then.
    """
    adapters_of(model).use(which, head)
    return model


def adapter_names(model: nn.Module) -> list[str]:
    """Names of the adapters of a model, in the order in which they came."""
    return adapters_of(model).names


def drop_adapter(model: nn.Module, name: str) -> nn.Module:
    """Take one of several named adapters away for good.

    Raises:
        UserError: No such adapter, or it is the only one.
    """
    adapters_of(model).drop(name)
    return model
