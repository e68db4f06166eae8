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
from vpeft.algorithms.base import Method, build_method, build_methods

__all__ = ["Method", "build_method", "build_methods"]
