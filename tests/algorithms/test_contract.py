"""The contract of every registered method on hosts that a design chooses (``support/design.py``).

Its checks are those of ``vpeft.testing``, which go through a stranger's method too. The whole matrix, with every
variant of a host, is ``test_catalogue.py``'s. There a method may refuse a host, with a message that names it.
"""

import itertools

import pytest
from support.design import chosen_cases

from vpeft.apis.testing.checks.starts import check_class
from vpeft.apis.testing.contract import go_through
from vpeft.registry import PEFT_METHODS

#: Names of checks by host and method: one test goes through all of a pair, each takes a few hundredths of a second.
CHECKS_OF = {
    pair: [check for *_, check in cases] for pair, cases in itertools.groupby(chosen_cases(), key=lambda case: case[:2])
}


@pytest.mark.parametrize(("host", "method"), CHECKS_OF)
def test_contract(host, method, tmp_path):
    found = list(go_through(host, {"type": method}, tmp_path, CHECKS_OF[host, method]))
    failed = [f"{one.check or 'attaching'}: {one.words}" for one in found if one.result == "failed"]
    assert not failed, "\n".join(failed)
    if refused := [one.words for one in found if one.result == "refused"]:
        pytest.skip(refused[0])
    assert [one.check for one in found] == CHECKS_OF[host, method]
    assert "passed" in {one.result for one in found}


@pytest.mark.parametrize("method", sorted(PEFT_METHODS.module_dict))
def test_what_a_class_states(method):
    cls = PEFT_METHODS.get(method)
    check_class(cls)
    assert ("Not verified" in cls.__doc__) == bool(cls.unverified)
    assert not cls.unverified or cls.unverified in cls.__doc__
