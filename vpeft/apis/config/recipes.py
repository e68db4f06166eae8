"""Configs that are composed of a recipe and a row of a table of methods, so that no method needs a file of its own.

A recipe ``<folder>/_base_/<model>_<dataset>.py`` is a plain config; ``<folder>/<method>_<model>_<dataset>.py`` is the
recipe with the row ``<method>`` of the table that the recipe names, and need not exist as a file. Where one file serves
several data sets it is ``<model>.py`` with a field ``data_sets``: settings by dotted key, by the name of the data set.

A recipe ``<folder>/_base_/<model>.py`` with a field ``over``, the name of another folder, is laid over that one's
configs: ``<folder>/<method>_<model>.py`` is ``<over>/<method>_<model>.py`` with the recipe's fields instead of its own.
"""

from __future__ import annotations

import atexit
import copy
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmengine import Config

from vpeft.apis.config.listing import laid_below, recipe_places, table_file
from vpeft.apis.config.names import located
from vpeft.apis.config.origin import Origin, give_origin, origin_of
from vpeft.apis.rates.evidence import EVIDENCE, searched_options, searched_tasks
from vpeft.core.adaptation.peft_backbone import adapted_settings
from vpeft.errors import UserError
from vpeft.files import import_named, read_config
from vpeft.registry import nearest


@dataclass(frozen=True)
class Recipe:
    """A recipe: its file, and which of the file's ``data_sets`` it is of (None where the file has none)."""

    file: Path
    data_set: str | None = None

    @property
    def name(self) -> str:
        """What its configs' names end with, ``<model>_<dataset>``."""
        return self.file.stem if self.data_set is None else f"{self.file.stem}_{self.data_set}"

    @property
    def folder(self) -> Path:
        """The folder of the configs that it makes."""
        return self.file.parent.parent

    def load(self, imports: bool = True) -> Config:
        """The plain config; without ``imports``, to be looked at alone, whatever packages are missing."""
        cfg, origin = _read(self.file), Origin()
        if imports:
            import_named(cfg, f"recipe {self.file}")
        origin.record(f"the recipe {self.file}", cfg, file=str(self.file))
        if self.data_set is not None:
            settings = dict(cfg.pop("data_sets")[self.data_set])
            cfg.merge_from_dict(settings)
            origin.record(f"the data set {self.data_set!r} of {self.file}", cfg, settings)
        give_origin(cfg, origin)
        return cfg


def _read(file: Path) -> Config:
    return copy.deepcopy(_parsed(file.resolve(), file.stat().st_mtime_ns))


@cache
def _parsed(file: Path, changed: int) -> Config:
    return read_config(file, "recipe", imports=False)


def recipes(folder: str | os.PathLike[str]) -> dict[str, Recipe]:
    """Recipes of a folder of configs by name, ``<model>_<dataset>``."""
    return {name: Recipe(*place) for name, place in recipe_places(folder).items()}


@cache
def method_rows(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A table's methods' configs, and further settings of a run by dotted key, both by the name of the row."""
    cfg = read_config(file, "table of methods").to_dict()
    return cfg["methods"], cfg.get("options", {})


def rows_of_table(recipe: Config, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of a recipe's table of methods.

    Raises:
        UserError: The recipe names no table, or one that does not exist.
    """
    return method_rows(table_file(folder, recipe.get("methods_table"), recipe.filename).resolve())


def split(path: str | os.PathLike[str]) -> tuple[str, Recipe] | None:
    """Method and recipe of a config's name, None where no recipe fits."""
    path = located(path)
    found = [(name, recipe) for name, recipe in recipes(path.parent).items() if path.stem.endswith(f"_{name}")]
    if path.suffix != ".py" or not found:
        return None
    name, recipe = max(found, key=lambda item: len(item[0]))
    return path.stem.removesuffix(f"_{name}"), recipe


def recipe_label(path: str | os.PathLike[str]) -> str:
    """The label of a config's host: what follows the method in its name."""
    stem, composed = located(path).stem, split(path)
    if composed is not None:
        return stem.removeprefix(f"{composed[0]}_")
    return stem.split("_", 1)[1] if "_" in stem else stem


def compose(path: str | os.PathLike[str]) -> Config | None:
    """The config of that name, None where no recipe of its folder fits it.

    Raises:
        UserError: Recipe or folder below has no such method, or the recipe leaves it out; the message says why.
    """
    found = split(path)
    if found is None:
        return None
    method, recipe = found
    plain = recipe.load()
    if "over" in plain:
        return _laid_over(Path(path), method, recipe)
    methods, options = rows_of_table(plain, recipe.folder)
    if method not in methods:
        raise UserError(f"config {path}: {plain.methods_table!r} has no method {method!r}: {nearest(method, methods)}")
    _refuse(path, method, plain)
    cfg = plain.to_dict()
    cfg["model"]["backbone"] = adapted_settings(cfg["model"]["backbone"], methods[method])
    composed = Config(cfg, cfg_text=plain.text, filename=str(path))
    composed.merge_from_dict(dict(options.get(method, {})))
    give_origin(composed, origin_of(plain))
    row = f"the row {method!r} of the table {plain.methods_table!r}"
    origin_of(composed).record(row, composed, ["model.backbone.method", *options.get(method, {})])
    _put_searched(composed, method, recipe)
    return composed


def _put_searched(cfg: Config, method: str, recipe: Recipe) -> None:
    """Put in what a search for rates has fixed, in the place of the table's own."""
    if not (file := recipe.folder / EVIDENCE).is_file():
        return
    searched = searched_options(file, method, recipe.name, searched_tasks(cfg, recipe.name))
    cfg.merge_from_dict(searched)
    origin_of(cfg).record(f"the search for rates in {file}", cfg, searched)


def _refuse(path: str | os.PathLike[str], method: str, plain: Config) -> None:
    without = plain.get("without", {})
    if method in without:
        raise UserError(f"config {path}: {method} is not for this recipe: {without[method]}.")


def _laid_over(path: Path, method: str, recipe: Recipe) -> Config:
    plain = recipe.load()
    files = laid_below(recipe.folder, recipe.file.stem, plain.over)
    if method not in files:
        raise UserError(f"config {path}: {plain.over!r} has no method {method!r}: {nearest(method, files)}")
    _refuse(path, method, plain)
    fields = {key: value for key, value in plain.to_dict().items() if key not in ("over", "without")}
    cfg, origin = _read(files[method]), Origin()
    origin.record(str(files[method]), cfg, file=str(files[method]))
    cfg.merge_from_dict(fields)
    origin.record(f"the recipe {recipe.file}", cfg, fields)
    laid = Config(cfg.to_dict(), cfg_text=cfg.text, filename=str(path))
    import_named(laid, f"config {path}")
    give_origin(laid, origin)
    return laid


def is_recipe(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a recipe, which needs a method before it."""
    path = located(path)
    return path.suffix == ".py" and path.stem in recipes(path.parent)


@cache
def _composed_bases() -> Path:
    """A folder for configs that are bases of others, which mmengine reads as files."""
    folder = tempfile.mkdtemp(prefix="vpeft_configs_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def composed_base(path: Path) -> Path | None:
    """A file of a composed config, for one that names it in ``_base_``; None where no recipe fits."""
    cfg = compose(path)
    if cfg is None:
        return None
    file = Path(tempfile.mkdtemp(dir=_composed_bases())) / path.name
    file.write_text("".join(f"{key} = {value!r}\n" for key, value in cfg.to_dict().items()))
    return file
