"""To see and understand what a method does: every part works on the folders of trained runs.

Importing this registers the hooks; everything that needs more than mmengine is imported where it is used.
"""

from vpeft.extension.attention import hook  # noqa: F401  (register)
