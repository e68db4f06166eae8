"""The contract of every registered method on hosts that a design chooses (``support/design.py``).

Its checks are those of ``vpeft.testing``, which go through a stranger's method too. The whole matrix, with every
variant of a host, is ``test_catalogue.py``'s. There a method may refuse a host, with a message that names it.
"""

import pytest
from support.design import chosen_cases

from vpeft.apis.testing.case import NotHere
from vpeft.apis.testing.checks.starts import check_class
from vpeft.apis.testing.contract import check_pair
from vpeft.registry import PEFT_METHODS


@pytest.mark.parametrize(("host", "method", "check"), chosen_cases())
def test_contract(host, method, check, tmp_path):
    reason = None
    try:
        check_pair(check, host, {"type": method}, tmp_path)
    except NotHere as refusal:
        reason = str(refusal)
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("method", sorted(PEFT_METHODS.module_dict))
def test_what_a_class_states(method):
    cls = PEFT_METHODS.get(method)
    check_class(cls)
    assert ("Not verified" in cls.__doc__) == bool(cls.unverified)
    assert not cls.unverified or cls.unverified in cls.__doc__
