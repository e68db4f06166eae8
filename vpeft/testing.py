"""Tests of methods that anybody writes: ``check_method``, ``each_check``, and the plugin of pytest of this name."""

from vpeft.apis.testing.as_tests import each_check
from vpeft.apis.testing.case import ContractError
from vpeft.apis.testing.contract import CHECKS, HANDFUL, Checked, ContractReport, check_method

__all__ = ["CHECKS", "HANDFUL", "Checked", "ContractError", "ContractReport", "check_method", "each_check"]

#: Loaded with this module where pytest takes it as a plugin.
pytest_plugins = ["vpeft.apis.testing.plugin"]
