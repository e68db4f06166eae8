"""Hooks that single methods give to a run; with them mmengine's Runner is imported."""

from vpeft.algorithms.unified import noah_space  # noqa: F401  (register)
