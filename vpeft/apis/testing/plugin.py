"""The plugin of pytest: ``pytest -p vpeft.testing my_method.py`` goes through the methods of a file that is named.

It is no entry point: installing vpeft changes nothing of anybody's pytest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vpeft.apis.testing.as_tests import Contract, contracts
from vpeft.apis.testing.case import ContractError
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS


def pytest_addoption(parser: pytest.Parser) -> None:
    """State the option."""
    group = parser.getgroup("vpeft", "methods of vpeft")
    group.addoption("--vpeft-hosts", metavar="A,B", help="tiny backbones that methods are gone through on")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A Python file that is named on the command line, for the methods that it registers."""
    if file_path.suffix == ".py" and parent.session.isinitpath(file_path):
        return MethodsOfFile.from_parent(parent, path=file_path)
    return None


class MethodsOfFile(pytest.Module):
    """The methods that a file registers."""

    def collect(self) -> Iterator[pytest.Item]:
        hosts = self.config.getoption("--vpeft-hosts")
        given, known = hosts.split(",") if hosts else None, PEFT_METHODS.module_dict.values()
        for name, value in vars(self.obj).items():
            own = isinstance(value, type) and value.__module__ == self.obj.__name__
            if own and issubclass(value, Method) and (value in known or "build" in vars(value)):
                for one in contracts(value, given):
                    yield CheckOfMethod.from_parent(self, name=f"{name}-{one.name}", contract=one)


class CheckOfMethod(pytest.Item):
    """One check of one method on one backbone."""

    def __init__(self, *, contract: Contract, **kwargs) -> None:
        super().__init__(**kwargs)
        self.contract = contract

    def runtest(self) -> None:
        self.contract()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: str | None = None) -> object:
        """What a check says is enough; anything else is shown with its traceback."""
        if isinstance(excinfo.value, ContractError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name
