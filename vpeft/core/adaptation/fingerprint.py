"""Is a base the same as another one? Digests per tensor, told apart by role and comparable across precisions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vpeft.core.backbones.block import HostParam
from vpeft.core.backbones.kept.few_bits import BITS, FewBits
from vpeft.errors import UserError
from vpeft.files import schema_fault

#: Roles of tables whose size follows from the size of the input: another size is no other base.
RESIZED = ("pos_embed", "rel_pos_bias", "rel_pos")
#: Precisions to which the values of a float32 tensor are rounded too: those in which the same base may be loaded.
PRECISIONS = ("float32", "float16", "bfloat16")
_DTYPES = sorted(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))
_TEXT, _NAME = {"type": "string"}, {"type": ["string", "null"]}
_ROW = {
    "type": "object",
    "required": ["role", "shape", "dtype", "digests"],
    "properties": {
        "role": _TEXT,
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "dtype": {"enum": _DTYPES},
        "digests": {"type": "object", "minProperties": 1, "additionalProperties": _TEXT},
        "bits": {"enum": list(BITS)},
    },
}
#: What is written of a base: where it came from, and the digests of its tensors.
BASE_SCHEMA = {
    "type": "object",
    "required": ["source", "file", "by", "prefix", "fingerprint", "tensors"],
    "properties": {
        "source": {"enum": ["file", "given", "random", "never"]},
        "file": _NAME,
        "by": {"enum": ["init_cfg", "load_from", None]},
        "prefix": _NAME,
        "fingerprint": _TEXT,
        "tensors": {"type": "object", "additionalProperties": _ROW},
    },
}


class BaseTensor(NamedTuple):
    """A tensor of the base: its key inside the backbone, its role (of a parameter: ``HostParam.role``), its values."""

    name: str
    role: str
    tensor: Tensor


def precision(tensor: Tensor) -> str:
    """The precision in which a tensor is compared: its type's name; float64 counts as float32.

    Of a tensor of few bits it is that of the values that were quantised, whose digests it carries.
    """
    if origin := quantised_origin(tensor):
        return next(iter(origin))
    return str(tensor.dtype).removeprefix("torch.").replace("float64", "float32")


def tensor_digest(tensor: Tensor, to: str) -> str:
    """16 hexadecimal digits of the SHA-256 of the values rounded to the type ``to``."""
    if origin := quantised_origin(tensor):
        return origin[to]
    values = tensor.detach().cpu()
    if values.is_floating_point():
        values = values.float().to(getattr(torch, to))  # always by way of float32: one rounding for every precision
    return hashlib.sha256(values.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()[:16]


def quantised_origin(tensor: Tensor) -> dict[str, str]:
    """Digests of the values that a tensor of few bits was made of, by precision; empty for any other."""
    return tensor.origin if isinstance(tensor, FewBits) else {}


def digests_by_precision(tensor: Tensor) -> dict[str, str]:
    """The digests of a tensor by precision: its own, and those that are coarser."""
    own = precision(tensor)
    return {to: tensor_digest(tensor, to) for to in (PRECISIONS if own == "float32" else (own,))}


def base_table(tensors: Iterable[BaseTensor]) -> dict[str, dict[str, Any]]:
    """What is kept of a base: per tensor role, shape, type and the digests at every precision no finer than its own."""
    table = {}
    for name, role, tensor in tensors:
        row = {
            "role": role,
            "shape": list(tensor.shape),
            "dtype": precision(tensor),
            "digests": digests_by_precision(tensor),
        }
        table[name] = row | ({"bits": tensor.kind} if isinstance(tensor, FewBits) else {})
    return table


def fingerprint(table: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over a base's description: keys, shapes and values at their own precision."""
    lines = (f"{name} {row['shape']} {row['digests'][row['dtype']]}\n" for name, row in sorted(table.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def old_fingerprint(tensors: Iterable[BaseTensor]) -> str:
    """The one SHA-256 that files of the format ``vpeft-adapter-1`` hold: keys, shapes and values in float32."""
    total = hashlib.sha256()
    for name, _, tensor in tensors:
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        total.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return total.hexdigest()


def check_description(description: Any, where: str) -> None:
    """Refuse what does not describe a base.

    Raises:
        UserError: It does not follow the schema; the message says where.
    """
    if error := schema_fault(description, BASE_SCHEMA):
        place = ".".join(map(str, error.absolute_path)) or "as a whole"
        raise UserError(f"{where} does not describe a base ({place}: {error.message[:80]}): copy or train it again.")


class BaseDifference(NamedTuple):
    """What two bases differ in.

    Attributes:
        differing: Keys of tensors that differ, each with the reason.
        resized: Tables of another size, with the size there and here.
        rounded: Precisions there and here, where they are not the same.
        bits: Few bits there and here ("" for none), where they are not the same.
    """

    differing: dict[str, str]
    resized: dict[str, tuple[list[int], list[int]]] = {}
    rounded: tuple[str, str] | None = None
    bits: tuple[str, str] | None = None

    def notes(self) -> list[str]:
        """One line on the precisions, and one on the sizes, where these differ."""
        lines = []
        if self.rounded:
            there, here = self.rounded
            lines.append(f"trained on the base in {there}, which is here in {here}: the same but for rounding.")
        if self.bits:
            there, here = (bits or "floating point" for bits in self.bits)
            lines.append(
                f"trained on a base whose linears were kept in {there}, which are here in {here}: the same base but "
                "for the error of few bits (docs/options.md); attach with the same base_dtype for the same outputs."
            )
        if self.resized:
            name, (there, here) = next(iter(self.resized.items()))
            lines.append(
                f"trained on the base at another input size: {len(self.resized)} position tables were resized "
                f"({name} {there} there, {here} here), the rest is the same."
            )
        return lines

    def some(self, count: int = 3) -> str:
        """The first tensors that differ, and how many more."""
        parts = [f"{name} {reason}" for name, reason in list(self.differing.items())[:count]]
        more = len(self.differing) - count
        return "; ".join(parts) + (f" and {more} more" if more > 0 else "")


def compare_bases(theirs: Mapping[str, Mapping[str, Any]], own: Iterable[BaseTensor]) -> BaseDifference:
    """Compare a described base with one that is at hand.

    Values are compared at the coarser of both precisions; a table whose size follows from the input's may have another
    size.

    Args:
        theirs: The description.
        own: The tensors at hand.
    """
    result, rounded, bits, names = BaseDifference({}, {}), None, None, set()
    for name, role, tensor in own:
        names.add(name)
        row = theirs.get(name)
        if row is None:
            result.differing[name] = "is only here"
        elif row["shape"] != list(tensor.shape):
            if role in RESIZED and _same_width(row["shape"], tensor.shape):
                result.resized[name] = (row["shape"], list(tensor.shape))
            else:
                result.differing[name] = f"has the shape {row['shape']} there, {list(tensor.shape)} here"
        else:
            mine, few = precision(tensor), tensor.kind if isinstance(tensor, FewBits) else ""
            if few != row.get("bits", ""):
                bits = bits or (row.get("bits", ""), few)
            at = mine if mine in row["digests"] else row["dtype"]
            if mine != row["dtype"]:
                rounded = rounded or (row["dtype"], mine)
            if mine not in ("float32", at):
                result.differing[name] = f"is {row['dtype']} there, {mine} here, and neither holds the other's values"
            elif row["digests"].get(at) != tensor_digest(tensor, at):
                result.differing[name] = "has other values"
    result.differing.update({name: "is missing here" for name in theirs if name not in names})
    return result._replace(rounded=rounded, bits=bits)


def _same_width(theirs: Sequence[int], own: Sequence[int]) -> bool:
    """Whether two tables differ in positions alone: the width is the last axis, or a map's ``(1, C, H, W)`` second."""
    return len(theirs) == len(own) and (theirs[-1] == own[-1] or (len(own) == 4 and theirs[1] == own[1]))


def require_whole(parameters: Iterable[HostParam], state: Mapping[str, Tensor], prefix: str, where: str) -> None:
    """Refuse weights that hold the base in part.

    Raises:
        UserError: A parameter of the base is missing or has another shape, and others are there.
    """
    given, lacking = 0, []
    for p in parameters:
        tensor = state.get(prefix + p.name)
        given += tensor is not None
        if tensor is None:
            lacking.append(f"{p.name} is missing")
        elif tensor.shape != p.param.shape and p.role not in RESIZED:
            lacking.append(f"{p.name} has the shape {tuple(tensor.shape)}, here {tuple(p.param.shape)}")
    if given and lacking:
        raise UserError(
            f"{where} holds the base only in part: {lacking[0]}, {len(lacking)} such, {given} fit. Give "
            "a checkpoint of the same architecture, or its file in init_cfg, which knows more formats."
        )


def need_local(file: str, where: str) -> None:
    """Refuse to follow an address that a checkpoint names."""
    if "://" in file and not file.startswith("vpeft://"):
        raise UserError(
            f"{where} was trained on the base of {file}, an address, which is followed only where the config names it: "
            "init_cfg=dict(type='Pretrained', checkpoint=...) of the backbone."
        )
