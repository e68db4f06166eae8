"""PEFT algorithms by the survey's categories: one file per method, registered in ``PEFT_METHODS``."""

from vpeft.algorithms import (  # noqa: F401  (register)
    adapter,
    prefix,
    prompt,
    reparameter,
    side,
    specification,
    unified,
)
from vpeft.core.contract.build import build_method, build_methods
from vpeft.core.contract.method import Method

__all__ = ["Method", "build_method", "build_methods"]
