"""The house: imports run downward, methods know no host and hosts no method."""

import ast
import re
from pathlib import Path

import pytest

from vpeft.registry import HOSTS, PEFT_METHODS

PACKAGE = Path(__file__).parents[1] / "vpeft"
LAYERS = ["core", "algorithms", "extension", "apis"]


def files(folder):
    return sorted((PACKAGE / folder).rglob("*.py"))


def imported(file):
    """Modules that a file imports anywhere, for more than the names of types."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def code(file):
    """The names and texts of a file, without its docstrings and comments."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        is_documented = isinstance(body, list) and body and isinstance(body[0], ast.Expr)
        if is_documented and isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
            body[0].value.value = ""
    return ast.unparse(tree)


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_run_downward(layer):
    above = LAYERS[LAYERS.index(layer) + 1 :]
    wrong = [
        f"{file.relative_to(PACKAGE)} imports {module}"
        for file in files(layer)
        for module in imported(file)
        if module.startswith("vpeft.") and module.split(".")[1] in above
    ]
    # A backbone with a method attached is built from a config: the one place where core asks for a method by its name.
    allowed = {"core/backbones/adapted.py imports vpeft.core.contract.method"}
    assert set(wrong) <= allowed


def test_no_method_names_a_host():
    hosts = {word for name, host in HOSTS.module_dict.items() for word in (name, host.__name__)}
    for file in files("algorithms"):
        words = set(re.findall(r"[\w.]+", code(file)))
        assert not words & hosts, file


def test_no_host_names_a_method():
    methods = {word for name, cls in PEFT_METHODS.module_dict.items() for word in (name, cls.__name__)}
    methods -= {"Linear"}  # torch's too
    for file in files("core/backbones"):
        assert not set(re.findall(r"[\w.+-]+", code(file))) & methods, file
