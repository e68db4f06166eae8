"""The house: imports run down, no circle, no crowded room; methods know no host and hosts no method."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from vpeft.registry import HOSTS, PEFT_METHODS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vpeft"
#: From the ground up; a file imports from its own floor and from those below.
LAYERS = [["registry", "errors", "files"], ["compat"], ["core"], ["algorithms"], ["extension"], ["apis"], ["testing"]]
CORE = [
    ["store", "families", "backbones"],
    ["contract", "models", "datasets"],
    ["adaptation"],
    ["trained"],
    ["hooks"],
]
LONGEST_FILE, LONGEST_FUNCTION, FULLEST_ROOM = 400, 60, 12
#: One act under one name on two floors: on a model by a config, and on a host by methods that are built; the words.
SHARED = {"attach", "main"}


def module_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(file):
    return ast.parse(file.read_text())


@cache
def imported(name):
    """Modules of vpeft that a module imports anywhere, for types too."""
    found = set()
    for node in ast.walk(tree(FILES[name])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "vpeft"}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.split(".")[0] == "vpeft":
            found |= {
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in FILES else node.module for a in node.names
            }
    return found - {name}


def floor(name):
    """Where a module stands; the faces ``vpeft`` and ``vpeft.core`` only gather what lies in their rooms."""
    parts = name.split(".")[1:]
    layer = next(i for i, names in enumerate(LAYERS) if parts[0] in names)
    if parts[0] != "core" or len(parts) == 1:
        return layer, len(CORE)
    return layer, next(i for i, names in enumerate(CORE) if parts[1] in names)


def test_every_module_has_a_floor():
    assert len([floor(name) for name in FILES if name not in ("vpeft", "vpeft.__main__")]) > 200


@pytest.mark.parametrize("layer", [name for names in LAYERS for name in names])
def test_imports_run_down(layer):
    inside = [name for name in FILES if name.startswith(f"vpeft.{layer}")]
    assert inside
    wrong = [
        f"{name} imports {other}"
        for name in inside
        for other in sorted(imported(name))
        if other != "vpeft" and floor(other) > floor(name)
    ]
    assert not wrong


def test_nothing_imports_the_package_from_inside():
    """``import vpeft`` runs everything: inside, a name is imported from the file that defines it."""
    assert not [name for name in FILES if "vpeft" in imported(name)]


def test_no_circle():
    seen, path = set(), []

    def walk(name):
        if name in path:
            pytest.fail(" -> ".join([*path[path.index(name) :], name]))
        if name not in seen:
            path.append(name)
            for other in sorted(imported(name)):
                walk(other)
            path.pop()
            seen.add(name)

    for name in FILES:
        walk(name)
    assert len(seen) == len(FILES)


def test_no_room_is_crowded():
    files = [*FILES.values(), *(ROOT / "benchmarks").rglob("*.py")]
    rooms = Counter(file.parent for file in files if file.name != "__init__.py")
    assert {str(room): count for room, count in rooms.items() if count > FULLEST_ROOM} == {}


def test_files_and_functions_are_short():
    files = {name: len(file.read_text().splitlines()) for name, file in FILES.items()}
    assert {name: lines for name, lines in files.items() if lines > LONGEST_FILE} == {}
    functions = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, file in FILES.items()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: lines for name, lines in functions.items() if lines > LONGEST_FUNCTION} == {}


def test_two_public_things_do_not_share_a_name():
    names = Counter(
        node.name
        for file in FILES.values()
        for node in tree(file).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    )
    assert {name for name, count in names.items() if count > 1} <= SHARED


def test_every_room_says_what_it_answers():
    assert not [
        name for name, file in FILES.items() if file.name == "__init__.py" and not ast.get_docstring(tree(file))
    ]


def test_tools_and_words_are_thin():
    """They parse and print; what is decided is decided below."""
    for folder, most in ((ROOT / "tools", 7), (PACKAGE / "apis/commands/words", 80)):
        lengths = {str(file): len(file.read_text().splitlines()) for file in folder.rglob("*.py")}
        assert {file: lines for file, lines in lengths.items() if lines > most} == {}


@pytest.mark.parametrize("package", ["mmdet", "mmseg", "mmaction", "optuna", "ray", "submitit", "decord", "av"])
def test_optional_packages_are_imported_in_their_own_rooms(package):
    """At the top of a file an extra is imported only in the rooms that need it; elsewhere inside functions."""
    rooms = {
        "mmdet": ("vpeft.core.datasets.detection",),
        "mmseg": ("vpeft.core.datasets.segmentation", "vpeft.core.datasets.load.label_map"),
        "optuna": ("vpeft.apis.tune",),
    }.get(package, ())

    def imports(file):
        for node in tree(file).body:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module

    wrong = [
        name
        for name, file in FILES.items()
        if any(module.split(".")[0] == package for module in imports(file)) and not name.startswith(rooms)
    ]
    assert not wrong


def code(file):
    """The names and texts of a file, without its docstrings and comments."""
    parsed = ast.parse(file.read_text())
    for node in ast.walk(parsed):
        body = getattr(node, "body", None)
        is_documented = isinstance(body, list) and body and isinstance(body[0], ast.Expr)
        if is_documented and isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
            body[0].value.value = ""
    return ast.unparse(parsed)


def test_no_method_names_a_host():
    hosts = {word for name, host in HOSTS.module_dict.items() for word in (name, host.__name__)}
    for file in (PACKAGE / "algorithms").rglob("*.py"):
        words = set(re.findall(r"[\w.]+", code(file)))
        assert not words & hosts, file


def test_no_host_names_a_method():
    methods = {word for name, cls in PEFT_METHODS.module_dict.items() for word in (name, cls.__name__)}
    methods -= {"Linear"}  # torch's too
    for file in (PACKAGE / "core/backbones").rglob("*.py"):
        assert not set(re.findall(r"[\w.+-]+", code(file))) & methods, file


def test_test_files_have_names_of_their_own():
    """pytest imports them by their bare names."""
    names = Counter(file.name for file in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name, count in names.items() if count > 1} == set()
