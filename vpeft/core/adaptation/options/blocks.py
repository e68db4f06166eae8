"""``blocks=`` and sizes by stage or block: in which blocks a method is, with which of its hyper-parameters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vpeft.core.adaptation.options.part import host_part
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.contract.method import Method
from vpeft.core.contract.options import REST, named_blocks, varying
from vpeft.errors import UserError

_ENDS = re.compile(r"(last|first) *(\d+)")


def chosen_part(method: Method, host: Host) -> Host:
    """The host, or the part of it that ``method.blocks`` leaves the method.

    Raises:
        UserError: It names no blocks of this host, or the method cannot be without the others.
    """
    if method.blocks is None:
        return host
    name = method.registered_name()
    chosen = chosen_blocks(method.blocks, host, name)
    if len(chosen) == len(host.blocks):
        return host
    if method.needs_all_blocks:
        raise UserError(f"{name}: blocks={said_blocks(method.blocks)} is refused: {method.needs_all_blocks}.")
    if method.in_a_row and chosen[-1].index - chosen[0].index >= len(chosen):
        raise UserError(
            f"{name}: blocks={said_blocks(method.blocks)} leaves a gap, and a block passes something on to the next: "
            "name blocks that follow one another."
        )
    return host_part(host, chosen)


def chosen_blocks(given: Any, host: Host, name: str) -> list[Block]:
    """Blocks of a host by what ``blocks=`` says, in their order.

    Raises:
        UserError: It says none of the host's.
    """
    count = len(host.blocks)
    if not count:
        raise UserError(
            f"{name}: blocks={said_blocks(given)}: this {host.registered_name()} host has no blocks; leave it out."
        )
    places = [f"last {given}"] if isinstance(given, int) else [given] if isinstance(given, str) else given
    found: set[int] = set()
    for one in places:
        indices = _indices(one, host)
        if not indices:
            break
        found |= indices
    else:
        if found:
            return [host.blocks[i] for i in sorted(found)]
    stages = sorted({block.stage for block in host.blocks})
    raise UserError(
        f"{name}: blocks={said_blocks(given)} must name blocks of {host.registered_name()}: a number up to {count}, "
        f"'last 2', 'first 2', indices from {-count} to {count - 1}, 'block0' to 'block{count - 1}', or stages "
        f"(stage{', stage'.join(map(str, stages))})."
    )


def sized_parts(method: Method, host: Host) -> list[tuple[Method, Host]]:
    """The method with plain hyper-parameters, and the part of ``host`` that has these: one pair for each combination.

    A block takes what is stated for it, else for its stage, else for ``rest``, else the class's default.

    Raises:
        UserError: A block or stage is named that the host lacks, or the method cannot differ between blocks.
    """
    fields = varying(method)
    if not fields:
        return [(method, host)]
    name, first = method.registered_name(), next(iter(fields))
    if why := _same_everywhere(method, host):
        raise UserError(f"{name}: {first} by stage or block is refused: {why}.")
    for field, values in fields.items():
        for place in values:
            if place != REST and not _at(place, host.whole):
                stages = ", ".join(dict.fromkeys(f"stage{block.stage}" for block in host.whole.blocks))
                has = f"block0 to block{len(host.whole.blocks) - 1} and {stages}"
                raise UserError(f"{name}: {field} is stated for {place}: {host.registered_name()} has {has}.")
            if place != REST and not _at(place, host):
                raise UserError(f"{name}: {field} is stated for {place}, where blocks= leaves no block.")
    groups: dict[tuple[Any, ...], list[Block]] = {}
    for block in host.blocks:
        values = tuple(_value(values, getattr(type(method), field), block) for field, values in fields.items())
        groups.setdefault(values, []).append(block)
    return [
        (
            dataclasses.replace(method, **dict(zip(fields, values, strict=True))),
            host_part(host.whole, blocks, f"{name}: {' and '.join(fields)}"),
        )
        for values, blocks in groups.items()
    ]


def said_blocks(given: Any) -> str:
    """What ``blocks=`` was given, for messages."""
    return repr(list(given) if isinstance(given, Sequence) and not isinstance(given, str) else given)


def _indices(one: int | str, host: Host) -> set[int]:
    count = len(host.blocks)
    if isinstance(one, int):
        return {one % count} if -count <= one < count else set()
    if (ends := _ENDS.fullmatch(one)) is not None:
        number, order = int(ends[2]), range(count)
        return set(order[count - number :] if ends[1] == "last" else order[:number]) if number <= count else set()
    return {block.index for block in _at(one, host)}


def _at(place: str, host: Host) -> list[Block]:
    kind, number = named_blocks(place) or ("", -1)
    return [block for block in host.blocks if (block.stage if kind == "stage" else block.index) == number]


def _value(values: Mapping[str, Any], default: Any, block: Block) -> Any:
    for place in (f"block{block.index}", f"stage{block.stage}", REST):
        if place in values:
            return values[place]
    return default


def _same_everywhere(method: Method, host: Host) -> str:
    if not host.blocks:
        return f"this {host.registered_name()} host has neither"
    if method.needs_all_blocks:
        return method.needs_all_blocks
    if method.in_a_row:
        return "its blocks pass something on to the next one"
    if type(method).out_width is not Method.out_width:
        return "the width of its head is one of all blocks"
    if method.follows_steps:
        return "it chooses among all blocks together"
    return "its losses are of all blocks together" if method.adds_losses else ""
