"""The design of the contract's pairs covers what it promises."""

from collections import defaultdict

import pytest
from support.design import (
    ALWAYS,
    KINDS,
    METHODS,
    NOWHERE,
    Attached,
    attached,
    chosen_cases,
    chosen_pairs,
    covering,
    in_turn,
    kinds_of,
)
from support.hosts import ON_CLIPS, TINY

from vpeft.apis.testing.contract import CHECKS, has_check

MADE_UP = {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}
USES = {"a1": {"before"}, "a2": {"after"}, "b1": {"before"}, "b2": {"around"}}


def where(host: str, method: str) -> Attached | None:
    """Hosts 1 to 6, two of each block kind; the first refuses all of category b."""
    if host == "1" and method.startswith("b"):
        return None
    return Attached(frozenset(USES[method]), frozenset({f"kind {int(host) // 2}"}))


def test_a_made_up_matrix():
    pairs = covering(list("123456"), MADE_UP, where)
    assert pairs == covering(list("654321"), dict(reversed(MADE_UP.items())), where)
    assert len(pairs) < 6 * 4 - 2
    for host in "123456":
        names = [name for one, name in pairs if one == host]
        assert {MADE_UP[name] for name in names} == ({"a"} if host == "1" else {"a", "b"})
        assert {"before", "after"} <= set().union(*(USES[name] for name in names))
        assert ("b2" in names) == (host != "1")
    assert all(len(kinds_of(name, set(pairs), where)) >= 3 for name in MADE_UP)


def test_a_method_that_nothing_accepts_is_left_out():
    assert covering(["1"], MADE_UP, where) == [("1", "a1"), ("1", "a2")]


def test_cases_take_turns():
    rows = [("a", 1), ("b", 2), ("c", 3)]
    found = list(in_turn(rows, ["x", "y", "z", "w"], 2))
    assert len(found) == 12
    assert {mark.name for one in found for mark in one.marks} == {"catalogue"}
    run = [one.values for one in found if not one.marks]
    assert run == [(*row, case) for row, both in zip(rows, ("xy", "zw", "xy"), strict=True) for case in both]


def test_every_check_is_gone_through_on_every_host_and_with_every_method():
    cases = chosen_cases()
    pairs = {(host, method) for host, method, _ in cases}
    assert pairs == set(chosen_pairs())
    hosts, methods = defaultdict(set), defaultdict(set)
    for host, method, check in cases:
        hosts[host].add(check)
        methods[method].add(check)
    assert all(found == {name for name in CHECKS if has_check(name, host)} for host, found in hosts.items())
    for method, found in methods.items():
        assert found == {name for name in CHECKS for host, one in pairs if one == method and has_check(name, host)}
    assert {(*pair, check) for pair in pairs for check in ALWAYS} <= set(cases)


@pytest.mark.catalogue
def test_what_the_whole_matrix_shows_is_covered():
    """Attaches everything everywhere."""
    whole = {(host, method): attached(host, method) for host in (*TINY, *ON_CLIPS) for method in METHODS}
    assert NOWHERE not in whole.values()
    pairs = set(chosen_pairs())
    there = {pair: found for pair, found in whole.items() if found}
    assert pairs <= set(there)
    for covered in (lambda m, found: {METHODS[m]}, lambda m, found: found.placements):
        want, got = defaultdict(set), defaultdict(set)
        for (host, method), found in there.items():
            want[host] |= covered(method, found)
            if (host, method) in pairs:
                got[host] |= covered(method, found)
        assert want == got
    for method in METHODS:
        possible = kinds_of(method, {pair for pair in there if pair[1] == method})
        assert len(kinds_of(method, pairs)) >= min(KINDS, len(possible)), method
