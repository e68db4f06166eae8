"""The contract of every registered method on hosts that a design chooses (``support/design.py``).

Its checks are those of ``vpeft.testing``, which go through a stranger's method too. The whole matrix, with every
variant of a host, is ``test_catalogue.py``'s. There a method may refuse a host, with a message that names it.
"""

from collections import defaultdict

import pytest
from support.design import chosen_cases

from vpeft.apis.testing.checks.starts import check_class
from vpeft.apis.testing.contract import go_through
from vpeft.registry import PEFT_METHODS

#: Names of checks by host and method: one test goes through all of a pair, each takes a few hundredths of a second.
CHECKS_OF = defaultdict(list)
for *_pair, _check in chosen_cases():
    CHECKS_OF[tuple(_pair)].append(_check)


@pytest.mark.parametrize(("host", "method"), CHECKS_OF)
def test_contract(host, method, tmp_path):
    found = list(go_through(host, {"type": method}, tmp_path, CHECKS_OF[host, method]))
    wrong = [one for one in found if one.result in ("failed", "refused")]  # the design chooses what attaches
    assert not wrong, "\n".join(f"{one.check or 'attaching'} {one.result}: {one.words}" for one in wrong)
    assert [one.check for one in found] == CHECKS_OF[host, method]
    assert "passed" in {one.result for one in found}


@pytest.mark.parametrize("method", sorted(PEFT_METHODS.module_dict))
def test_what_a_class_states(method):
    cls = PEFT_METHODS.get(method)
    check_class(cls)
    assert ("Not verified" in cls.__doc__) == bool(cls.unverified)
    assert not cls.unverified or cls.unverified in cls.__doc__
