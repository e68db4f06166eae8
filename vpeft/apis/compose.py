"""Configs that are composed of a recipe and a row of a table of methods, so that no method needs a file of its own.

A recipe ``<folder>/_base_/<model>_<dataset>.py`` is a plain config; ``<folder>/<method>_<model>_<dataset>.py`` is the
recipe with the row ``<method>`` of the table that the recipe names, and need not exist as a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mmengine import Config

from vpeft.errors import UserError
from vpeft.registry import nearest

#: Where tables of methods lie, seen from a recipe's folder.
TABLES = Path("..") / "_base_" / "methods"


def recipes(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Recipes of a folder of configs by name, ``<model>_<dataset>``."""
    return {file.stem: file for file in sorted((Path(folder) / "_base_").glob("*.py"))}


@cache
def _table(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    cfg = Config.fromfile(str(file)).to_dict()
    return cfg["methods"], cfg.get("options", {})


def table(recipe: Config, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Methods' configs, and further settings of the run by dotted key, both by the name in a config's file name.

    Raises:
        UserError: The recipe names no table, or one that does not exist.
    """
    known = {file.stem: file for file in (folder / TABLES).glob("*.py")}
    name = recipe.get("methods_table")
    if name not in known:
        raise UserError(
            f"{recipe.filename}: methods_table={name!r} is no table of methods: {nearest(str(name), known)}"
        )
    return _table(known[name].resolve())


def split(path: str | os.PathLike[str]) -> tuple[str, Path] | None:
    """Method and recipe of a config's name, None where no recipe fits."""
    path = Path(path)
    found = [(name, file) for name, file in recipes(path.parent).items() if path.stem.endswith(f"_{name}")]
    if path.suffix != ".py" or not found:
        return None
    name, file = max(found, key=lambda item: len(item[0]))
    return path.stem.removesuffix(f"_{name}"), file


def compose(path: str | os.PathLike[str]) -> Config | None:
    """The config of that name, None where no recipe of its folder fits it.

    Raises:
        UserError: The recipe's table has no such method, or the recipe leaves it out; the message says why.
    """
    found = split(path)
    if found is None:
        return None
    method, file = found
    recipe = Config.fromfile(str(file))
    methods, options = table(recipe, Path(path).parent)
    if method not in methods:
        raise UserError(f"config {path}: {recipe.methods_table!r} has no method {method!r}: {nearest(method, methods)}")
    without = recipe.get("without", {})
    if method in without:
        raise UserError(f"config {path}: {method} is not for this recipe: {without[method]}.")
    cfg = recipe.to_dict()
    plain = dict(cfg["model"]["backbone"])
    peft = {"type": "vpeft.PEFT", "of": plain.pop("type"), "method": methods[method], **plain}
    cfg["model"]["backbone"] = peft
    composed = Config(cfg, cfg_text=recipe.text, filename=str(path))
    composed.merge_from_dict(dict(options.get(method, {})))
    return composed


def composed_files(root: str | os.PathLike[str] = "configs") -> Iterator[str]:
    """Names of all configs below ``root`` that are composed."""
    for base in sorted(Path(root).rglob("_base_")):
        for name, file in recipes(base.parent).items():
            recipe = Config.fromfile(str(file))
            if "methods_table" in recipe:
                methods, _ = table(recipe, base.parent)
                out = recipe.get("without", {})
                yield from (str(base.parent / f"{method}_{name}.py") for method in methods if method not in out)
