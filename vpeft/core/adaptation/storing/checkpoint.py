"""What a run's checkpoint holds, and whether one is whole and fits."""

from __future__ import annotations

import functools
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader, load_from_http, load_from_local
from torch import nn

from vpeft.core.adaptation.base_weights import LOAD_FROM
from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.fingerprint import require_whole
from vpeft.core.adaptation.storing.adapter_file import (
    adapter_state,
    backbones,
    check_base,
    fitted,
    model_metadata,
    pairs,
    read_adapter,
)
from vpeft.core.adaptation.storing.fit import check_methods, check_task, check_tensors
from vpeft.core.adaptation.storing.format import (
    check_finite,
    check_mapping,
    check_metadata,
    check_plain,
    check_whole,
    seal,
)
from vpeft.core.adaptation.wrappers import state_dict, to_own, to_plain
from vpeft.core.backbones.block_forward import BASE_NOTE
from vpeft.core.backbones.host import is_peft_key
from vpeft.errors import UserError


def seal_checkpoint(
    checkpoint: dict[str, Any],
    classes: Sequence[str] | None,
    task: str | None,
    run: Mapping[str, Any] | None = None,
) -> None:
    """Put task, classes, the table of the tensors and the sum over everything into a checkpoint that is complete.

    Args:
        checkpoint: The checkpoint, with its ``peft``; changed in place.
        classes: Names of the classes, None where they are not known.
        task: Name of the task, likewise.
        run: What is known of the run (:func:`vpeft.core.trained.record.run_record`).
    """
    content = {key: value for key, value in checkpoint.items() if key != "peft"}
    metadata = {**checkpoint["peft"], "classes": classes, "task": task}
    metadata |= {} if run is None else {"run": dict(run)}
    checkpoint["peft"] = seal(metadata, checkpoint["state_dict"], content)


def check_sum(checkpoint: Any, where: str) -> None:
    """Refuse a run's checkpoint that is not as it was written; one without ``peft`` passes.

    Raises:
        UserError: It was changed, has a newer format, or holds NaN.
    """
    if isinstance(checkpoint, dict) and "peft" in checkpoint:
        metadata = checkpoint["peft"] = check_metadata(checkpoint["peft"], where)
        content = {key: value for key, value in checkpoint.items() if key != "peft"}
        check_whole(metadata, checkpoint.get("state_dict"), content, where)


def _whole(load: Callable[..., Any]) -> Callable[..., Any]:
    """mmengine's loader, in whose place it stands: so every use of a run's checkpoint sees whether it is whole."""

    @functools.wraps(load)
    def loader(filename: str, map_location: Any = None, **options: Any) -> Any:
        if load is load_from_local and not os.path.isfile(os.path.expanduser(filename)):
            raise UserError(f"{filename} does not exist: give a run's epoch_*.pth, or its adapter file.")
        if load is load_from_local and filename.endswith(".safetensors"):
            return _adapter_checkpoint(os.path.expanduser(filename))
        checkpoint = load(filename, map_location, **options)
        check_sum(checkpoint, filename)
        return checkpoint

    return loader


def _adapter_checkpoint(file: str) -> dict[str, Any]:
    """An adapter file in the form of a checkpoint, for ``load_from`` and the packages' own inferencers."""
    tensors, metadata = read_adapter(file)
    names = metadata.get("classes")
    meta = {"dataset_meta": {"classes": tuple(names)}} if names else {}
    checkpoint = {"state_dict": OrderedDict(tensors), "meta": meta, "peft": metadata}
    for prefix, one in backbones(metadata).items():
        if "base" in one:
            note_base(checkpoint, prefix, one["base"])
    return checkpoint


CheckpointLoader.register_scheme("", _whole(load_from_local), force=True)
CheckpointLoader.register_scheme(("http://", "https://"), _whole(load_from_http), force=True)


def check_checkpoint(
    model: nn.Module,
    checkpoint: dict[str, Any],
    where: str,
    classes: Sequence[str] | None = None,
    task: str | None = None,
) -> None:
    """Refuse a checkpoint that does not belong to the adapted ``model``; a plain one gives the base.

    Args:
        model: The model.
        checkpoint: As mmengine's loader gave it, which looks whether it is whole; the keys of an adapter file's tensors
            become the model's.
        where: The file.
        classes: Names of the classes that it is wanted for, None where they are not known.
        task: Name of the task, likewise.

    Raises:
        UserError: Foreign keys, other methods, another host, other base weights or a part of them, or another task.
    """
    check_mapping(checkpoint, where)
    metadata = checkpoint.get("peft")
    state = checkpoint.get("state_dict", checkpoint)
    check_plain(state, where)
    known = state_dict(model)
    if not any(key in known for key in state) and "head" not in (metadata or ()):
        raise UserError(f"{where} is a foreign checkpoint: none of its keys {list(state)[:3]} is in this model.")
    if metadata is None:
        if any(is_peft_key(key) for key in state):
            raise UserError(f"{where} holds PEFT parameters but not which method they belong to: train it again.")
        check_finite(state, where)
        for prefix, adaptation in find_adaptations(model).items():
            require_whole(adaptation.host.parameters(), state, prefix, where)
            note_base(checkpoint, prefix, {"file": where, "by": LOAD_FROM})
        return
    check_task(metadata, where, task, classes)
    for _, adaptation, theirs in pairs(model, metadata, where):
        check_methods(adaptation.methods.values(), theirs["methods"], where)
        if "head" not in metadata:
            check_base(adaptation, theirs, where)
    if "head" in metadata:  # an adapter file, which may be of the backbone alone
        checkpoint["state_dict"] = OrderedDict(fitted(model, state, metadata, where))
    else:
        check_tensors(state, adapter_state(model), where, "Use the config that it was trained by.")


def use_own_keys(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Give the weights of a checkpoint, which bear the plain model's keys, those that ``model`` itself loads."""
    state = checkpoint.get("state_dict", checkpoint)
    own = to_own(model, state)
    if own.keys() != state.keys():
        if "state_dict" in checkpoint:
            checkpoint["state_dict"] = own
        else:
            checkpoint.clear()
            checkpoint.update(own)


def shrink_checkpoint(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Leave the frozen backbones of ``model`` out of a checkpoint, and say what it belongs to."""
    for adaptation in find_adaptations(model).values():
        adaptation.check()
    checkpoint["peft"] = metadata = model_metadata(model)
    for name, head in {"state_dict": "", "ema_state_dict": "module."}.items():
        if name in checkpoint:
            checkpoint[name] = to_plain(model, checkpoint[name], head)
    for key in checkpoint["state_dict"].keys() - state_dict(model).keys():
        del checkpoint["state_dict"][key]  # it stands at several places and is there once already
    for prefix, adaptation, theirs in pairs(model, metadata, "the checkpoint"):
        own = adaptation.own_keys()
        for name, head in {"state_dict": "", "ema_state_dict": "module."}.items():
            for key in list(checkpoint.get(name, ())):
                if key.startswith(head + prefix) and key.removeprefix(head + prefix) not in own:
                    del checkpoint[name][key]
            if name in checkpoint:
                note_base(checkpoint, head + prefix, theirs["base"], name)


def note_base(checkpoint: dict[str, Any], prefix: str, note: Mapping[str, Any], key: str = "state_dict") -> None:
    """Write what is known of a base where the loading of a state dict finds it, however it is loaded.

    Args:
        checkpoint: The checkpoint, or a state dict alone; changed in place.
        prefix: Of the backbone's keys in the state dict.
        note: What is known (:meth:`~vpeft.core.adaptation.base_weights.BaseWeights.meet`).
        key: Which of its state dicts.
    """
    state = checkpoint.get(key, checkpoint)
    if not isinstance(state, OrderedDict):
        state = checkpoint[key] = OrderedDict(state)
    metadata = OrderedDict(getattr(state, "_metadata", {}))
    metadata[prefix.rstrip(".")] = {**metadata.get(prefix.rstrip("."), {}), BASE_NOTE: dict(note)}
    state._metadata = metadata


def check_resumable(checkpoint: Mapping[str, Any], where: str) -> None:
    """Refuse to resume from a checkpoint without the state of a run.

    Raises:
        UserError: It holds weights alone.
    """
    meta = checkpoint.get("meta")
    counted = isinstance(meta, Mapping) and all(type(meta.get(key)) is int for key in ("epoch", "iter"))
    if not counted or not isinstance(checkpoint.get("message_hub"), Mapping):
        raise UserError(
            f"{where} holds weights, but no state of a run to resume: give a run's epoch_*.pth or iter_*.pth, or start "
            "from it with load_from."
        )
