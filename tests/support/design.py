"""Which methods are gone through on which hosts: few pairs that cover what the whole matrix would show.

All is computed from the registries and from what attaches where, in their order: a new host or method needs no edit.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from support.hosts import ON_CLIPS, TINY, build
from vpeft.apis.testing.contract import CHECKS, has_check
from vpeft.core.adaptation.attach import attach
from vpeft.core.contract.build import build_method
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, PEFT_METHODS

#: Categories of all methods.
METHODS = {name: cls.category for name, cls in sorted(PEFT_METHODS.module_dict.items())}
#: Those that are defined on images; the others need the frames of clips.
ON_IMAGES = tuple(name for name in METHODS if not PEFT_METHODS.get(name).needs_frames)
#: On so many block kinds every method is gone through, where it attaches to so many.
KINDS = 3


class Attached(NamedTuple):
    """Where a method stands on a host."""

    placements: frozenset[str]
    kinds: frozenset[str]


NOWHERE = Attached(frozenset(), frozenset())


@functools.cache
def attached(host: str, method: str) -> Attached | None:
    """The placements that a method uses and the kinds of the host's blocks; None where the host refuses the method."""
    try:
        (adaptation,) = attach(_model(host), [build_method(method)])
    except UserError:
        return None
    except Exception:  # the tests of this pair show it
        _model.cache_clear()
        return NOWHERE
    sites = [adaptation.host.sites, *(block.sites for block in adaptation.host.blocks)]
    placements = {placed.placement for group in sites for site in group.values() for placed in site.entries}
    names = {kind: name for name, kind in BLOCKS.module_dict.items()}
    kinds = {names[block.kind] for block in adaptation.host.blocks}
    adaptation.detach()
    return Attached(frozenset(placements), frozenset(kinds))


@functools.cache
def _model(host: str) -> nn.Module:
    return build(host, torch.float32)


Where = Callable[[str, str], Attached | None]


def covering(hosts: Sequence[str], methods: Mapping[str, str], where: Where = attached) -> list[tuple[str, str]]:
    """Pairs of hosts and methods, sorted.

    On every host each placement that methods use and each category of methods is gone through, and every method on
    ``KINDS`` block kinds, as far as the hosts accept them; the methods that have been used least come first.

    Args:
        hosts: Names.
        methods: Categories by the methods' names.
        where: What attaches where.
    """
    pairs: set[tuple[str, str]] = set()
    used: Counter[str] = Counter()

    def add(host: str, names: Iterable[str], placement: str | None = None) -> None:
        """The least used of the methods that the host accepts (at the placement), unless one is there already."""
        for name in sorted(names, key=lambda n: ((host, n) not in pairs, used[n], n)):
            found = where(host, name)
            if found and (placement is None or placement in found.placements):
                used[name] += (host, name) not in pairs
                pairs.add((host, name))
                return

    using: dict[str, list[str]] = defaultdict(list)
    of_category: dict[str, list[str]] = defaultdict(list)
    for name, category in sorted(methods.items()):
        of_category[category].append(name)
        first = next(filter(None, (where(host, name) for host in sorted(hosts))), NOWHERE)
        for placement in first.placements:
            using[placement].append(name)
    for host in sorted(hosts):
        for placement in sorted(using, key=lambda p: (len(using[p]), p)):  # what few methods use decides first
            add(host, using[placement], placement)
        for names in of_category.values():
            add(host, names)
    for name in sorted(methods):
        for host in sorted(hosts, key=lambda h: (sum(h == other for other, _ in pairs), h)):
            seen = kinds_of(name, pairs, where)
            if len(seen) >= KINDS:
                break
            if where(host, name) and not where(host, name).kinds <= seen:
                add(host, [name])
    return sorted(pairs)


def kinds_of(method: str, pairs: set[tuple[str, str]], where: Where = attached) -> set[str]:
    """The block kinds on which a method is gone through."""
    return {kind for host, name in pairs if name == method for kind in where(host, name).kinds}


@functools.cache
def chosen_pairs() -> list[tuple[str, str]]:
    """Those of all hosts and methods."""
    return covering([*TINY, *ON_CLIPS], METHODS)


#: What every chosen pair shows; the other checks take turns over the pairs.
ALWAYS = (
    "1_start",
    "2_gradients_and_steps",
    "3_parameter_formula",
    "4_merge",
    "5_files_and_detach",
    "no_silent_bypass",
)


@functools.cache
def chosen_cases() -> list[tuple[str, str, str]]:
    """Host, method and check: of every chosen pair what is always gone through, and half of the rest in turn.

    Neighbours of a host and of a method have different halves.
    """
    seen: Counter[tuple[str, str]] = Counter()
    cases = []
    everywhere = Counter(name for name in CHECKS for host, _ in chosen_pairs() if has_check(name, host))
    for host, method in chosen_pairs():
        checks = [name for name in CHECKS if has_check(name, host)]

        def turn(name: str, host: str = host, method: str = method) -> tuple[Any, ...]:
            return seen[method, name], everywhere[name], seen[host, name], name

        rest = sorted(set(checks) - set(ALWAYS), key=turn)
        taken = rest[: (len(rest) + 1) // 2]
        seen.update((one, name) for name in taken for one in (method, host))
        cases += [(host, method, name) for name in checks if name in ALWAYS or name in taken]
    return cases


def in_turn(rows: Iterable[Any], cases: Sequence[Any], each: int = 1) -> Iterator[Any]:
    """Parameters ``(*row, case)`` for what rows and cases show apart from one another, hosts and options above all.

    Every row has ``each`` of the cases, which take turns; the other pairs carry the mark ``catalogue``.

    Args:
        rows: Strings, or tuples of several parameters.
        cases: What is gone through on the rows: strings, or tuples of several parameters.
        each: How many cases a row has.
    """
    for i, row in enumerate(rows):
        for j, case in enumerate(cases):
            values = [value for one in (row, case) for value in (one if isinstance(one, tuple) else (one,))]
            here = (j - i * each) % len(cases) < each
            yield pytest.param(*values, marks=() if here else pytest.mark.catalogue)
