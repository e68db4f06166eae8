"""What the package registers, by name, read from its files: no file of it, and no other package, is imported for it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
#: Where the classes of a registry are, and those that they inherit from.
ROOMS = {"PEFT_METHODS": ("algorithms", "core/contract"), "HOSTS": ("core/backbones",)}


@dataclass(frozen=True)
class Registered:
    """One registered class.

    Attributes:
        module: Where it is, such as ``vpeft.algorithms.reparameter.lora``.
        cls: The name of the class.
        states: Its class attributes, inherited ones included, that are stated as plain values.
    """

    module: str
    cls: str
    states: dict[str, Any]


@cache
def registered(registry: str) -> dict[str, Registered]:
    """Everything that the package registers in one of its registries, by name.

    Args:
        registry: ``PEFT_METHODS`` or ``HOSTS``.
    """
    classes: dict[str, tuple[str, ast.ClassDef]] = {}
    for room in ROOMS[registry]:
        for file in sorted((PACKAGE / room).rglob("*.py")):
            module = ".".join(("vpeft", *file.relative_to(PACKAGE).with_suffix("").parts))
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    classes[node.name] = (module, node)
    return {
        name: Registered(module, node.name, _states(node, classes))
        for module, node in classes.values()
        for name in _names(node, registry)
    }


def _names(node: ast.ClassDef, registry: str) -> list[str]:
    """The names under which a class is registered there."""
    calls = [mark for mark in node.decorator_list if isinstance(mark, ast.Call)]
    calls = [call for call in calls if ast.unparse(call.func) == f"{registry}.register_module"]
    given = [[ast.literal_eval(word.value) for word in call.keywords if word.arg == "name"] for call in calls]
    return [names[0] if names else node.name for names in given]


def _states(node: ast.ClassDef, classes: dict[str, tuple[str, ast.ClassDef]]) -> dict[str, Any]:
    """Plain values of a class and of those that it inherits from, as Python finds them: the first base first."""
    states = {}
    for base in reversed(node.bases):
        if (name := ast.unparse(base).split("[")[0].rsplit(".", 1)[-1]) in classes:
            states |= _states(classes[name][1], classes)
    for line in node.body:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and (value := getattr(line, "value", None)) is not None:
                states.pop(target.id, None)
                try:
                    states[target.id] = ast.literal_eval(value)
                except ValueError:  # worked out when it is imported
                    continue
    return states
