"""The contract of a method as tests of pytest, one for each check on each backbone."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpeft.apis.testing.case import NotHere
from vpeft.apis.testing.contract import CHECKS, check_pair, chosen_hosts, config_of, has_check
from vpeft.core.contract.method import Method

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True)
class Contract:
    """One check on one backbone; called, it goes through it."""

    host: str
    check: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.host}-{self.check}"

    def __call__(self) -> None:
        """Go through it; where the host refuses the method the test is skipped, with the reason."""
        import pytest

        reason = None
        try:
            with tempfile.TemporaryDirectory() as folder:
                check_pair(self.check, self.host, self.config, Path(folder))
        except NotHere as refusal:
            reason = str(refusal)
        if reason is not None:
            pytest.skip(reason)


def contracts(
    method: type[Method] | Method | str | Mapping[str, Any],
    hosts: Sequence[str] | None = None,
    checks: Collection[str] | None = None,
) -> list[Contract]:
    """Every check on every backbone; arguments and errors are those of ``check_method``."""
    config = config_of(method)
    found, _ = chosen_hosts(hosts, config)
    names = [name for name in CHECKS if checks is None or name in checks]
    return [Contract(host, name, config) for host in found for name in names if has_check(name, host)]


def each_check(
    method: type[Method] | Method | str | Mapping[str, Any],
    hosts: Sequence[str] | None = None,
    checks: Collection[str] | None = None,
) -> pytest.MarkDecorator:
    """A mark for a test function with the argument ``contract``, which it calls: one test for each check and backbone.

    Args:
        method: As ``check_method`` takes it.
        hosts: Likewise.
        checks: Likewise.
    """
    import pytest

    cases = contracts(method, hosts, checks)
    return pytest.mark.parametrize("contract", cases, ids=[one.name for one in cases])
