"""Adapter files: what a method has learned, and of which base, in one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.options.packed import packed_parts, stored
from vpeft.core.adaptation.storing.bits import pack_tensors, packed_bytes, unpack_tensors
from vpeft.core.adaptation.storing.fit import check_tensors
from vpeft.core.adaptation.storing.folded import folded_methods, folded_tensors
from vpeft.core.adaptation.storing.format import check_finite, check_metadata, check_whole, seal
from vpeft.core.adaptation.wrappers import state_dict, unwrap
from vpeft.core.backbones.load import built_by
from vpeft.errors import UserError
from vpeft.files import write_atomically


def head_keys(model: nn.Module) -> set[str]:
    """Keys, inside the plain ``model``, of what lies outside the adapted backbones."""
    inside = tuple(find_adaptations(model))
    return {key for key in state_dict(model) if not key.startswith(inside)}


def adapter_state(model: nn.Module, head: bool = True) -> dict[str, Tensor]:
    """The tensors of an adapter file by their keys inside the plain ``model``; the model's own, not copies."""
    keys = head_keys(model) if head else set()
    for prefix, adaptation in find_adaptations(model).items():
        heads = tuple(f"{name}." for name in adaptation.host.heads())
        keys |= {prefix + key for key in adaptation.own_keys() if head or not (heads and key.startswith(heads))}
    return {key: value for key, value in state_dict(model).items() if key in keys}


@torch.no_grad()
def few_values(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, int]]:
    """Of those among the model's ``tensors`` that a method reads in few bits, by key: these values, and the bits."""
    found = {}
    for adaptation in find_adaptations(model).values():
        for module in adaptation.peft_modules():
            for part in packed_parts(module):
                names, bits, _ = part.peft_packed
                found |= {part._parameters[name].data_ptr(): (part, name, bits) for name in names}
    held = {key: found.get(value.data_ptr()) for key, value in tensors.items()} if found else {}
    return {key: (stored(*one[:2]), one[2]) for key, one in held.items() if one is not None}


def stored_bytes(model: nn.Module, head: bool = True) -> int:
    """Bytes of the tensors of an adapter file, without what it says of them; on the meta device too."""
    total = sum(value.numel() * value.element_size() for value in adapter_state(model, head).values())
    parts = {part for one in find_adaptations(model).values() for m in one.peft_modules() for part in packed_parts(m)}
    for part in parts:
        names, bits, _ = part.peft_packed
        for matrix in (part._parameters[name] for name in names):
            total += packed_bytes(matrix, bits) - matrix.numel() * matrix.element_size()
    return total


def adapter_metadata(adaptation: Adaptation, folded: bool = False) -> dict[str, Any]:
    """What identifies an adapter and its base: methods' configs, host, where the base is from and its digests."""
    methods = folded_methods(adaptation) if folded else adaptation.methods.values()
    return {
        "methods": [method.config() for method in methods],
        "host": adaptation.host.description(),
        "base": adaptation.base.describe(),
    }


def model_metadata(model: nn.Module, folded: bool = False) -> dict[str, Any]:
    """The same of a model, with the prefix of its backbone's keys; of further adapted backbones under ``others``."""
    found = find_adaptations(model)
    first, *others = ({**adapter_metadata(one, folded), "prefix": prefix} for prefix, one in found.items())
    return {**first, "others": others} if others else first


def backbones(metadata: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a file says of each adapted backbone, by the prefix of its keys."""
    return {one.get("prefix", ""): one for one in (metadata, *metadata.get("others", ()))}


def save_adapter(
    model: nn.Module,
    path: str | os.PathLike[str],
    head: bool = True,
    classes: Sequence[str] | None = None,
    task: str | None = None,
    run: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    folded: bool = False,
) -> Path:
    """Write the adapter of ``model`` to a safetensors file, atomically.

    Args:
        model: A model with a method attached, not merged.
        path: The file.
        head: Store what lies outside the backbone too (the task's head).
        classes: Names of the classes that the head tells apart, in its order; loading for other ones is refused.
        task: Name of the task, likewise.
        run: What is known of the run (:func:`vpeft.core.trained.record.run_record`), with which ``vpeft.load`` needs
            no config. That of a network of ``vpeft.load_backbone`` is made here.
        preprocessing: Of such a network, for ``vpeft.load``: ``size`` of the images, ``mean`` and ``std`` by channel
            for values of 0 to 255; ``interpolation`` (``bicubic``), and ``crop``, which part of the image's shorter
            side is seen (None: the whole image, whatever its shape).
        folded: Write the adapter of plainer methods that answer the same at inference: VFPT as VPTDeep, reparametrised
            prefixes as direct ones. What ``run`` says has to be of these.

    Returns:
        The path.

    Raises:
        UserError: Nothing is attached, the adapter is merged, or it holds NaN or infinity; or no method is to be folded
            that could be.
    """
    for adaptation in find_adaptations(model).values():
        adaptation.check()
    if any(adaptation.merged for adaptation in find_adaptations(model).values()):
        raise UserError("the adapter is merged into the weights: unmerge it before saving (vpeft.unmerge(model)).")
    own = folded_tensors(model, adapter_state(model, head)) if folded else adapter_state(model, head)
    tensors = {key: value.detach().cpu().contiguous() for key, value in own.items()}
    check_finite(tensors, f"{path} is not written")
    tensors, packed = pack_tensors(tensors, few_values(model, own))
    metadata = {**model_metadata(model, folded), "head": head, **({"packed": packed} if packed else {})}
    metadata |= {"classes": None if classes is None else [str(name) for name in classes], "task": task}
    run = network_record(unwrap(model), preprocessing) if run is None else run
    metadata |= {} if run is None else {"run": dict(run)}
    return write_atomically(path, save(tensors, {"vpeft": json.dumps(seal(metadata, tensors, tensors))}))


def network_record(network: nn.Module, preprocessing: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The record (:mod:`vpeft.core.trained.record`) of a network of ``load_backbone``; None of another model.

    Raises:
        UserError: The preprocessing is not of the stated form, or is given for another model.
    """
    built = built_by(network)
    if preprocessing is not None and (built is None or not {"size", "mean", "std"} <= preprocessing.keys()):
        raise UserError(
            "preprocessing is stated of a network of vpeft.load_backbone, as dict(size=224, mean=[...], std=[...]), "
            "mean and std for values of 0 to 255."
        )
    try:
        json.dumps(built)
    except (TypeError, ValueError):
        return None
    if built is None:
        return None
    stated = None
    if preprocessing is not None:
        stated = {"channels": "RGB", "range": [0, 255], "resize": _resize_steps(**preprocessing)}
        stated |= {key: [float(value) for value in preprocessing[key]] for key in ("mean", "std")}
    said = {"family": "classification", "scope": "mmpretrain", "backbone": built["of"]}
    return {**said, "preprocessing": stated, "config": None, "network": built}


def _resize_steps(
    size: int, interpolation: str = "bicubic", crop: float | None = None, **_: Any
) -> list[dict[str, Any]]:
    if crop is None:
        return [{"mode": "Resize", "size": [size, size], "interpolation": interpolation}]
    edge = {"mode": "ResizeEdge", "size": int(size / crop), "edge": "short", "interpolation": interpolation}
    return [edge, {"mode": "CenterCrop", "size": size}]


def read_adapter(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of an adapter file.

    Raises:
        UserError: The file is missing, no adapter file, of a newer format, truncated or otherwise not as it was
            written, or holds NaN.
    """
    tensors, metadata = _read(Path(path), True)
    check_whole(metadata, tensors, tensors, str(path))
    return unpack_tensors(tensors, metadata.get("packed", []), str(path)), metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What an adapter file says, its tensors unread and its sum unchecked.

    Raises:
        UserError: The file is missing, no adapter file, or of a newer format.
    """
    return _read(Path(path), False)[1]


def _read(path: Path, whole: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the adapter file that vpeft.save_adapter or a run has written.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("vpeft")
            tensors = {key: file.get_tensor(key) for key in (file.keys() if whole else ())}
    except Exception as error:  # safetensors raises many kinds
        reason = ascii(str(error))[1:160]
        raise UserError(f"{path} is truncated or no safetensors file ({reason}): copy or train it again.") from error
    if text is None:
        raise UserError(
            f"{path} holds tensors but no description of a vpeft adapter: it was written by something else."
        )
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} was changed: its description is no JSON any more. Copy or train it again.") from error
    metadata = check_metadata(said, str(path))
    if not metadata.keys() >= {"head", "prefix"}:
        raise UserError(f"{path} describes no adapter file, but a run's checkpoint: it was written by something else.")
    if json.dumps(said) != text:  # other text of the same meaning is none that was written here
        raise UserError(f"{path} was changed: its description is written otherwise. Copy or train it again.")
    return tensors, metadata


def check_base(adaptation: Adaptation, metadata: Mapping[str, Any], where: str) -> None:
    """Refuse an adapter of another host or of other base weights.

    Raises:
        UserError: It does not fit; the message says in what.
    """
    own = adaptation.host.description()
    for key, theirs in metadata["host"].items():
        if own.get(key) != theirs:
            raise UserError(
                f"{where} belongs to another host: its {key} is {_short(theirs)}, this model's {_short(own.get(key))}."
            )
    adaptation.base.check(metadata.get("base") or metadata["fingerprint"], where)


def pairs(model: nn.Module, metadata: Mapping[str, Any], where: str) -> list[tuple[str, Adaptation, Mapping[str, Any]]]:
    """Prefix and adaptation of every adapted backbone of ``model``, with what the file says of it.

    Raises:
        UserError: The file holds other backbones.
    """
    found, stored = find_adaptations(model), backbones(metadata)
    if len(found) == len(stored) == 1:  # under whatever name
        return [(*next(iter(found.items())), next(iter(stored.values())))]
    if found.keys() != stored.keys():
        ours, theirs = (", ".join(key.removesuffix(".") or "the model itself" for key in of) for of in (found, stored))
        raise UserError(f"{where} is of the backbones {theirs}; adapted here: {ours}.")
    return [(prefix, adaptation, stored[prefix]) for prefix, adaptation in found.items()]


def put_adapter(model: nn.Module, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], where: str) -> None:
    """Copy an adapter's tensors into a model on which its methods are attached.

    Raises:
        UserError: Base, keys or shapes differ; nothing is changed then.
    """
    for adaptation in find_adaptations(model).values():
        adaptation.check()
    tensors = fitted(model, tensors, metadata, where)
    own = adapter_state(model, metadata["head"])
    kept = {key: own[key].clone() for key in tensors}
    with torch.no_grad():
        try:
            for key, value in tensors.items():
                own[key].copy_(value)
        except BaseException:
            for key, value in kept.items():
                own[key].copy_(value)
            raise
    # The parameters themselves, not views of them: they are still the model's own in a copy of it.
    held = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers()) if t.numel()}
    inside = tuple(find_adaptations(model))
    outside = [(held.get(own[key].data_ptr()), value) for key, value in kept.items() if not key.startswith(inside)]
    first = next(iter(find_adaptations(model).values()))
    first.heads.cover((tensor, value) for tensor, value in outside if tensor is not None)


def fitted(
    model: nn.Module, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], where: str
) -> dict[str, Tensor]:
    """An adapter's tensors by their keys inside ``model``, on which its methods are attached.

    Raises:
        UserError: Base, keys, shapes or kinds of number differ.
    """
    tensors, own = dict(tensors), adapter_state(model, metadata["head"])
    for prefix, adaptation, theirs in pairs(model, metadata, where):
        check_base(adaptation, theirs, where)
        if theirs["prefix"] != prefix:  # the same backbone, bare or inside another model
            size = len(theirs["prefix"])
            tensors = {prefix + k[size:]: v for k, v in tensors.items() if k.startswith(theirs["prefix"])}
            own = {k: v for k, v in own.items() if k.startswith(prefix)}
    remedy = f"Attach {metadata['methods']} and build the same head, or save with head=False."
    check_tensors(tensors, own, where, remedy)
    return tensors


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
