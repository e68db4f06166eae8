"""Which configs there are, by name; read from the files' text where that says it, so that nothing is imported for it.

What names hang on is few fields of few files (:data:`FIELDS`). A file that works one of them out, in a way that is not
read here, is run as any config is.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from vpeft.apis.config.names import configs_folder
from vpeft.errors import UserError, nearest
from vpeft.files import read_config

#: Fields of recipes and of tables of methods that decide on names; of the last three the keys do.
FIELDS = ("methods_table", "over", "data_sets", "without", "methods")
#: Where tables of methods lie, seen from a recipe's folder.
TABLES = Path("..") / "_base_" / "methods"
_DELETE = "_delete_"


def config_files(root: str | os.PathLike[str] | None = None) -> list[str]:
    """Leaf configs below ``root`` (:func:`configs_folder`) that are files, sorted; ``_base_`` files are left out."""
    root = configs_folder() if root is None else root
    files = Path(root).rglob("*.py") if Path(root).is_dir() else []
    return sorted(str(f) for f in files if "_base_" not in f.parts)


def config_names(root: str | os.PathLike[str] | None = None) -> list[str]:
    """Every config below ``root`` that is read by name: files, and those composed of recipe and method."""
    root = configs_folder() if root is None else root
    return sorted({*config_files(root), *composed_names(root)})


def composed_names(root: str | os.PathLike[str]) -> Iterator[str]:
    """Names of all configs below ``root`` that are composed (:mod:`vpeft.apis.config.recipes`)."""
    for base in sorted(Path(root).rglob("_base_")):
        folder = base.parent
        for name, (file, _) in recipe_places(folder).items():
            said = stated_fields(file)
            if "over" in said:
                methods = list(laid_below(folder, file.stem, said["over"]))
            elif "methods_table" in said:
                methods = stated_fields(table_file(folder, said["methods_table"], file))["methods"]
            else:
                continue
            out = said.get("without", ())
            yield from (str(folder / f"{method}_{name}.py") for method in methods if method not in out)


def recipe_places(folder: str | os.PathLike[str]) -> dict[str, tuple[Path, str | None]]:
    """The file, and the one of its ``data_sets``, of each recipe of a folder, by name: ``<model>_<dataset>``."""
    found: dict[str, tuple[Path, str | None]] = {}
    for file in sorted((Path(folder) / "_base_").glob("*.py")):
        names = stated_fields(file).get("data_sets")
        found |= {file.stem: (file, None)} if names is None else {f"{file.stem}_{n}": (file, n) for n in names}
    return found


def laid_below(folder: Path, recipe: str, over: str) -> dict[str, Path]:
    """The files of another folder, ``over``, that a recipe of that name is laid over, by method."""
    ending = f"_{recipe}"
    files = sorted((folder.parent / over).glob(f"*{ending}.py"))
    return {file.stem.removesuffix(ending): file for file in files}


def table_file(folder: Path, name: Any, recipe: str | os.PathLike[str]) -> Path:
    """The file of a table of methods, for a recipe of a folder.

    Raises:
        UserError: There is none of that name; the message names the nearest.
    """
    known = {file.stem: file for file in (folder / TABLES).glob("*.py")}
    if name not in known:
        raise UserError(f"{os.fspath(recipe)}: no methods_table {name!r}: {nearest(str(name), known)}")
    return known[name]


def stated_fields(file: Path) -> dict[str, Any]:
    """What a recipe or a table and its bases state of :data:`FIELDS`: words, and the keys of dicts.

    Raises:
        UserError: The file cannot be read.
    """
    return _stated(file.resolve(), file.stat().st_mtime_ns)


@cache
def _stated(file: Path, changed: int) -> dict[str, Any]:
    try:
        return {
            name: [key for key in value if key != _DELETE] if isinstance(value, list) else value
            for name, value in _in_text(file).items()
        }
    except (_WorkedOut, OSError, ValueError, SyntaxError, RecursionError):
        cfg = read_config(file, "config", imports=False)
        return {name: list(cfg[name]) if isinstance(cfg[name], dict) else cfg[name] for name in FIELDS if name in cfg}


class _WorkedOut(Exception):
    """A field is not stated as plain text."""


def _in_text(file: Path) -> dict[str, Any]:
    """The fields of a config's text, laid over those of its bases as mmengine does it."""
    set_: dict[str, ast.expr] = {}
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
        if isinstance(target, ast.Name):
            set_[target.id] = statement.value
        elif any(isinstance(node, ast.Name) and node.id in (*FIELDS, "_base_") for node in ast.walk(statement)):
            raise _WorkedOut
    found: dict[str, Any] = {}
    bases = ast.literal_eval(set_["_base_"]) if "_base_" in set_ else []
    for base in [bases] if isinstance(bases, str) else bases:
        if "::" in base:
            raise _WorkedOut
        found |= _in_text(file.parent / base)
    for name in set_.keys() & set(FIELDS):
        own, below = _plain(set_[name], set_), found.get(name)
        is_over = isinstance(own, list) and isinstance(below, list) and _DELETE not in own
        found[name] = [*below, *(key for key in own if key not in below)] if is_over else own
    return found


def _plain(value: ast.expr, set_: dict[str, ast.expr]) -> str | list[str] | None:
    """A word or None, or the keys of a dict: of what is written so, or made of the rows of one that is."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str | None):
        return value.value
    if isinstance(value, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in value.keys]
    elif isinstance(value, ast.Call) and ast.unparse(value.func) == "dict" and not value.args:
        keys = [one.arg for one in value.keywords]
    elif isinstance(value, ast.DictComp):
        keys = _keys_of_rows(value, set_)
    else:
        raise _WorkedOut
    if not all(isinstance(key, str) for key in keys):
        raise _WorkedOut
    return keys


def _keys_of_rows(made: ast.DictComp, set_: dict[str, ast.expr]) -> list[str]:
    """Of ``{name: ... for name, ... in rows.items()}`` the keys of ``rows``."""
    (loop, *more), rows = made.generators, None
    if isinstance(loop.iter, ast.Call) and isinstance(loop.iter.func, ast.Attribute) and loop.iter.func.attr == "items":
        rows = set_.get(ast.unparse(loop.iter.func.value))
    first = loop.target.elts[0] if isinstance(loop.target, ast.Tuple) else None
    if rows is None or more or loop.ifs or first is None or ast.unparse(first) != ast.unparse(made.key):
        raise _WorkedOut
    return _plain(rows, set_)
