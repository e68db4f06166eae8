"""PEFT algorithms by the survey's categories: one file per method, registered in ``PEFT_METHODS``."""

from vpeft.algorithms import adapter, prefix, prompt, reparameter, specification, unified  # noqa: F401  (register)
from vpeft.algorithms.base import Method, build_method, build_methods

__all__ = ["Method", "build_method", "build_methods"]
