"""The whole matrix: the contract of every method on every host and each of its variants. By hand, with --catalogue.

``pytest --catalogue --shard 1/8 tests/algorithms/test_catalogue.py`` goes through an eighth of it and writes what it
found into ``vpeft/apis/pages/catalogue.csv``, every few seconds; ``tools/methods_page.py`` makes the page of it. A pair
is not gone through again while the files of its host, tiny backbone and method are the same; delete its row for that.
"""

import json

import pytest
from support.catalogue import gone_through
from support.design import ALWAYS, METHODS
from support.hosts import TINY

from vpeft.apis.pages.catalogue import read_catalogue
from vpeft.apis.testing.contract import go_through

_known = {one.host for one in read_catalogue()}
PAIRS = [(host, method) for host in sorted(TINY, key=lambda h: (h in _known, h)) for method in sorted(METHODS)]


def answer(host, method, folder, checks=None):
    """``passed``, ``refused`` or ``failed``, and why."""
    found = list(go_through(host, {"type": method}, folder, checks))
    for result in ("failed", "refused"):
        for one in found:
            if one.result == result:
                return result, f"{one.check}: {one.words}"[:300] if result == "failed" else one.words
    return "passed", ""


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
    """After the pair itself, with the checks that every pair of the design has too."""
    before = gone_through(host, method)
    if before and before.variants and " failed: " not in before.variants:
        pytest.skip("gone through with the same files")
    plain = [before] if before else go_through(host, {"type": method}, tmp_path, checks=())
    if any(one.result == "refused" for one in plain):
        pytest.skip("refused without options")
    names = [name for name in TINY[host].variants if name != "plain"]
    found = {name: answer(f"{host}/{name}", method, tmp_path / name, ALWAYS) for name in names}
    not_so = [f"{name} {result}: {reason}" for name, (result, reason) in found.items() if result != "passed"]
    told = "; ".join([f"{len(found) - len(not_so)} of {len(found)}", *not_so])
    record_property("catalogue", json.dumps({"host": host, "method": method, "variants": told}))
    assert "failed" not in {result for result, _ in found.values()}, told
