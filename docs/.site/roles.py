"""Docstrings for the site: Sphinx's roles, which Markdown does not know, become plain code."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:mod|class|func|meth|attr):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Replace ``:func:`use``` by ```use```."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Edit the docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
