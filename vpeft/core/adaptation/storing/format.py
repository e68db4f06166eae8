"""The form of what is stored of an adaptation: a format number, a schema, a table of the tensors, a sum over it all.

``metadata`` of an adapter file, and ``checkpoint["peft"]`` of a run, hold

===========  =========================================================================================================
``format``   :data:`FORMAT`
``methods``  the methods' configs; ``host`` and ``base`` say what they were attached to; ``others`` says the same of
             further backbones
``head``     whether the task's head is in it (adapter files); ``prefix`` is that of the backbone's keys
``task``     name of the task, and ``classes`` the names of its classes; None where they are not known
``run``      the family, the preprocessing and the config of the run (:mod:`vpeft.core.trained.record`); left out where
             nothing is known of it, as in files of older vpeft, which pass over it
``tensors``  dtype and shape of each tensor by its key
``packed``   which matrices lie in few bits inside two of the tensors (:mod:`.bits`); left out where none does
``sha256``   over all of this, and names, dtypes, shapes and bytes of every tensor; of a checkpoint over all that it
             holds: weights, optimiser, schedules, counters, logged scalars
===========  =========================================================================================================
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from torch import Tensor

from vpeft.core.adaptation.fingerprint import BASE_SCHEMA
from vpeft.core.adaptation.storing.bits import ROW_SCHEMA
from vpeft.core.backbones.weights.dense import not_dense
from vpeft.core.contract.options import PLACES
from vpeft.errors import UserError
from vpeft.files import schema_fault

FORMAT = "vpeft-adapter-2"
#: It had neither table nor sum.
FIRST = "vpeft-adapter-1"
#: Of a file with packed matrices, which a reader of the others would not know.
PACKED = "vpeft-adapter-3"

_TEXT, _NAME = {"type": "string"}, {"type": ["string", "null"]}
_VALUE = {"type": ["string", "number", "boolean", "null"]}
#: A number by stage and block.
_SIZES = {"type": "object", "propertyNames": {"pattern": PLACES}, "additionalProperties": {"type": ["number", "null"]}}
_METHOD = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": _TEXT, "consistency": {"type": ["object", "null"], "additionalProperties": _VALUE}},
    "additionalProperties": {"anyOf": [_VALUE, {"type": "array", "items": _VALUE}, _SIZES]},
}
_SUM = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_BACKBONE = {
    "methods": {"type": "array", "items": _METHOD},
    "host": {"type": "object", "required": ["name"], "properties": {"name": _TEXT}},
    "prefix": _TEXT,
    "fingerprint": _SUM,
    "base": BASE_SCHEMA,
}
_ONE = {
    "required": ["methods", "host"],
    "anyOf": [{"required": ["base"]}, {"required": ["fingerprint"]}],
    "properties": _BACKBONE,
}
_TENSOR = {
    "type": "array",
    "prefixItems": [_TEXT, {"type": "array", "items": {"type": "integer", "minimum": 0}}],
    "minItems": 2,
    "items": False,
}
SCHEMA = {
    "type": "object",
    **_ONE,
    "required": ["format", *_ONE["required"]],
    "properties": {
        **_BACKBONE,
        "format": {"enum": [FIRST, FORMAT, PACKED]},
        "others": {"type": "array", "items": {"type": "object", **_ONE}},
        "head": {"type": "boolean"},
        "task": _NAME,
        "classes": {"anyOf": [{"type": "null"}, {"type": "array", "items": _TEXT}]},
        "run": {"type": "object"},
        "tensors": {"type": "object", "additionalProperties": _TENSOR},
        "packed": {"type": "array", "items": ROW_SCHEMA},
        "sha256": _SUM,
    },
    "if": {"properties": {"format": {"enum": [FORMAT, PACKED]}}},
    "then": {"required": ["task", "classes", "tensors", "sha256"]},
}


def seal(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], content: Any) -> dict[str, Any]:
    """Metadata with its format, the table of the tensors and the sum over all that is stored with it.

    Args:
        metadata: What is said of the adapter.
        tensors: The tensors that the table lists.
        content: All that is stored, the metadata left out.
    """
    number = PACKED if metadata.get("packed") else FORMAT
    said = {"task": None, "classes": None, **metadata, "format": number, "tensors": tensor_table(tensors)}
    sealed = json.loads(json.dumps(said))
    sealed.pop("sha256", None)
    return {**sealed, "sha256": content_sum([sealed, content])}


def tensor_table(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Type and shape of each tensor by its key."""
    return {key: [str(value.dtype).removeprefix("torch."), list(value.shape)] for key, value in tensors.items()}


def check_metadata(metadata: Any, where: str) -> dict[str, Any]:
    """The metadata of a file, once it is known to follow the schema.

    Raises:
        UserError: It has another format, or does not follow the schema.
    """
    try:
        metadata = json.loads(json.dumps(metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: what it says of its adapter is no JSON ({_line(error)}): {_AGAIN}") from error
    number = re.fullmatch(r"vpeft-adapter-(\d{1,9})", str(metadata.get("format") if isinstance(metadata, dict) else ""))
    if number and int(number[1]) > int(PACKED.rpartition("-")[2]):
        raise UserError(
            f"{where} has the format {number[0]}, and this vpeft reads up to {PACKED}: install the newer vpeft."
        )
    if error := schema_fault(metadata, SCHEMA):
        place = ".".join(map(str, error.absolute_path)) or "its description"
        raise UserError(f"{where} describes no vpeft adapter ({_short(place)}: {_short(error.message)}): {_AGAIN}")
    if metadata["format"] == FIRST:
        MMLogger.get_current_instance().warning(
            f"{where} has the old format {FIRST}, which carries no sum: whether it is whole cannot be known."
        )
    return metadata


def check_whole(metadata: Mapping[str, Any], tensors: Mapping[str, Any], content: Any, where: str) -> None:
    """Refuse what is not as it was written, and tensors that cannot be weights.

    Args:
        metadata: As :func:`check_metadata` gave it.
        tensors: The tensors that its table lists.
        content: All that is stored, the metadata left out.
        where: The file.

    Raises:
        UserError: Tensors are missing, renamed, added or of another shape or type, a value was changed, or is NaN.
    """
    check_plain(tensors, where)
    if metadata["format"] != FIRST:
        table = {key: (kind, tuple(shape)) for key, (kind, shape) in metadata["tensors"].items()}
        found = {key: (str(v.dtype).removeprefix("torch."), tuple(v.shape)) for key, v in tensors.items()}
        changed = [f"{key} is missing" for key in sorted(table.keys() - found.keys())]
        changed += [f"{key} was added" for key in sorted(found.keys() - table.keys())]
        for key in sorted(table.keys() & found.keys()):
            if table[key] != found[key]:
                (was, size), (kind, shape) = table[key], found[key]
                changed.append(f"{key} is {kind} {shape} and was {was} {size}")
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UserError(f"{where} was changed: {_short('; '.join(changed[:3]), 300)}{more}. {_COPY}")
        said = {key: value for key, value in metadata.items() if key != "sha256"}
        if content_sum([said, content]) != metadata["sha256"]:
            raise UserError(f"{where} was changed: its SHA-256 is another than when it was written. {_COPY}")
    check_finite(tensors, where)


def check_mapping(value: Any, where: str) -> None:
    """Refuse what is no mapping.

    Raises:
        UserError: It is something else.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"{where} holds a {type(value).__name__} in the place of weights by name: {_AGAIN}")


def check_plain(tensors: Any, where: str) -> None:
    """Refuse anything but named, dense tensors that the file really holds.

    Raises:
        UserError: Something else is among them.
    """
    check_mapping(tensors, where)
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{where}: {_short(key)} is a {type(value).__name__} and no tensor by name: {_AGAIN}")
        if (said := not_dense(value)) is not None:
            raise UserError(f"{where}: {key} {said}: {_AGAIN}")


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        UserError: A tensor holds them.
    """
    for key, value in tensors.items():
        if (value.is_floating_point() or value.is_complex()) and not torch.isfinite(value).all():
            raise UserError(f"{where}: {key} holds NaN or infinity: the training has diverged; take an earlier one.")


def content_sum(content: Any) -> str:
    """SHA-256 over nested values as checkpoints hold them: names, dtypes, shapes and bytes of tensors included."""
    digest = hashlib.sha256()
    _feed(digest, content)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        _feed_tensor(digest, value)
    elif isinstance(value, (np.ndarray, np.generic)):
        digest.update(f"array {value.dtype.str} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, HistoryBuffer):
        _feed(digest, [*value.data, value.max_length])
    elif isinstance(value, Mapping):
        digest.update(f"{{{len(value)} ".encode())
        names = all(isinstance(key, str) for key in value)
        for key in sorted(value) if names else value:
            _feed(digest, key)
            _feed(digest, value[key])
        if note := getattr(value, "_metadata", None):  # torch's, of a state dict
            _feed(digest, note)
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)} ".encode())
        for one in value:
            _feed(digest, one)
    elif isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        digest.update(f"text {len(raw)} ".encode() + raw)
    elif isinstance(value, (bytes, bytearray)):
        digest.update(f"bytes {len(value)} ".encode() + value)
    elif isinstance(value, (bool, int, float, complex, type(None))):
        digest.update(f"{type(value).__name__} {hex(value) if type(value) is int else repr(value)} ".encode())
    else:
        digest.update(f"a {type(value).__name__} ".encode())


def _feed_tensor(digest: Any, value: Tensor) -> None:
    digest.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
    if value.layout == torch.strided and not value.is_meta and not value.is_quantized and value.numel():
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)


_AGAIN = "copy or train it again."
_COPY = "Copy or train it again."


def _short(value: Any, length: int = 160) -> str:
    text = ascii(str(value))[1:-1]
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _line(error: BaseException) -> str:
    return _short((str(error).splitlines() or [type(error).__name__])[0], 120)
