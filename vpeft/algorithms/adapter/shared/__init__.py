"""Bottlenecks whose matrices blocks share or are products of smaller ones."""

from vpeft.algorithms.adapter.shared import arc, colin, lorand  # noqa: F401  (register)
