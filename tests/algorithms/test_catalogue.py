"""The whole matrix: the contract of every method on every host and each of its variants. By hand, with --catalogue.

``pytest --catalogue --shard 1/8 tests/algorithms/test_catalogue.py`` goes through an eighth of it and writes what it
found into ``vpeft/apis/pages/catalogue.csv``, pair by pair; ``tools/methods_page.py`` makes the page of it. A pair
is not gone through again while the files of its host, tiny backbone and method are the same; delete its row for that.
"""

import inspect
import itertools
import json

import pytest
import test_contract
import torch
from support.catalogue import gone_through
from support.design import METHODS
from support.hosts import TINY, build
from support.refusals import NO_MAP

import vpeft
from vpeft.apis.pages.catalogue import read_catalogue
from vpeft.errors import one_line

_one_kernel_of_attention = test_contract._one_kernel_of_attention  # for these tests too
_known = {one.host for one in read_catalogue()}
PAIRS = [(host, method) for host in sorted(TINY, key=lambda h: (h in _known, h)) for method in sorted(METHODS)]


def cases():
    """The checks of a pair: each test of the contract with each of its own parameters."""
    for name, test in vars(test_contract).items():
        if name.startswith("test_") and "method" in inspect.signature(test).parameters:
            own = [mark.args for mark in test.pytestmark if "host" not in mark.args[0]]
            for values in itertools.product(*(values for _, values in own)):
                given = [zip(names, value, strict=True) for (names, _), value in zip(own, values, strict=True)]
                yield name, test, dict(itertools.chain(*given))


CASES = list(cases())


def refusal(host, method):
    """Why a host does not take a method, in words that name it, or None."""
    words = None
    try:
        vpeft.attach(build(host, torch.float32), method)
    except vpeft.UserError as error:
        words = one_line(error)
    assert words is None or host.split("/")[0] in words
    return words


def fault(host, method, folder):
    """The first check that fails on a pair and what it said, or None; a pass that has no map raises.

    Raises:
        vpeft.UserError: It has none.
    """
    for number, (name, test, given) in enumerate(CASES):
        if name == "test_7_other_input_size" and (host not in TINY or "other-size" not in TINY[host].variants):
            continue
        if "tmp_path" in inspect.signature(test).parameters:
            given = {**given, "tmp_path": folder / str(number)}
            given["tmp_path"].mkdir(parents=True)
        torch.manual_seed(0)
        try:
            test(host, method, **given)
        except pytest.skip.Exception:
            continue
        except Exception as error:
            if isinstance(error, vpeft.UserError) and NO_MAP in str(error):
                raise
            return f"{name.removeprefix('test_')}: {one_line(f'{type(error).__name__}: {error}')}"[:300]
    return None


def answer(host, method, folder):
    """``passed``, ``refused`` or ``failed``, and why."""
    if reason := refusal(host, method):
        return "refused", reason
    try:
        reason = fault(host, method, folder)
    except vpeft.UserError as error:
        return "refused", one_line(error)
    return ("failed", reason) if reason else ("passed", "")


pytestmark = pytest.mark.catalogue
pairs = pytest.mark.parametrize(("host", "method"), PAIRS)


@pairs
def test_pair(host, method, tmp_path, record_property):
    if gone_through(host, method):
        pytest.skip("gone through with the same files")
    result, reason = answer(host, method, tmp_path)
    record_property("catalogue", json.dumps({"host": host, "method": method, "result": result, "reason": reason}))
    assert result != "failed", reason


@pairs
def test_variants(host, method, tmp_path, record_property):
    """After the pair itself."""
    before = gone_through(host, method)
    if before and before.variants:
        pytest.skip("gone through with the same files")
    if refusal(host, method):
        pytest.skip("refused without options")
    names = [name for name in TINY[host].variants if name != "plain"]
    found = {name: answer(f"{host}/{name}", method, tmp_path / name) for name in names}
    not_so = [f"{name} {result}: {reason}" for name, (result, reason) in found.items() if result != "passed"]
    told = "; ".join([f"{len(found) - len(not_so)} of {len(found)}", *not_so])
    record_property("catalogue", json.dumps({"host": host, "method": method, "variants": told}))
    assert "failed" not in {result for result, _ in found.values()}, told
