"""Top-level names of a config: settings that something reads, variables of its file, and slips of settings."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from mmengine import Config
from mmengine.runner import Runner

from vpeft.apis.config.keys.sections import SLIP
from vpeft.apis.config.task import FIELDS
from vpeft.errors import closest

#: Fields of mmengine and its packages that are read elsewhere than by the Runner, or by it of the config alone.
ELSEWHERE = {
    *("custom_imports", "compile", "model_wrapper_cfg", "sync_bn", "find_unused_parameters"),
    *("activation_checkpointing", "efficient_conv_bn_eval", "tta_model", "tta_pipeline"),
}
#: Fields of this package that any config may have.
OWN_FIELDS = {
    *("suite", "main_metric", "data_variant", "tuned", "eval_split", "feature_cache", "data_store", "strategy"),
    *("noah", "shifted"),
}
#: Fields of recipes (:mod:`vpeft.apis.config.recipes`).
_OF_RECIPES = {"methods_table", "data_sets", "without", "over", "published", "searched_on"}
#: Settings that variables of OpenMMLab's configs are like: ``test_pipeline``.
_UNLIKE = {"tta_pipeline", "tta_model"}
#: What stands for the file that text in a config is of: mmengine puts its name before it.
_NAMED = re.compile(r"^.*\.(?:py|json|ya?ml)$", re.MULTILINE)


class _Text(NamedTuple):
    """Names in a config's text: those that it sets at the top level, and those that it reads."""

    assigned: frozenset[str]
    read: frozenset[str]


def settings_read(cfg: Config, options: Mapping[str, Any]) -> set[str]:
    """Top-level names that something reads of such a config."""
    runner = inspect.signature(Runner.__init__).parameters.keys() - {"self", "cfg"}
    known = {*runner, *ELSEWHERE, *OWN_FIELDS}
    if cfg.get("suite") or options.get("suite"):
        known |= set(FIELDS)
    return known | _OF_RECIPES if "methods_table" in cfg or "over" in cfg else known


def variables_of(cfg: Config, options: Mapping[str, Any]) -> set[str]:
    """Top-level names that are only the file's own: their value was put in where they are used, and nobody reads them.

    Of a config that was written out whole, which uses no names any more, they are those whose value stands elsewhere
    in it.
    """
    own = set(map(str, cfg)) - settings_read(cfg, options)
    text = _names_in(cfg)
    if text.read - {*dir(builtins)} or "_base_" in text.assigned:
        return own & text.read
    return {name for name in own if _stands_elsewhere(cfg, name)}


def slips(cfg: Config, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Top-level names that are like a setting, and are neither one nor used.

    Yields:
        The name, and what is wrong with it.
    """
    known = settings_read(cfg, options)
    alike = known - _UNLIKE
    for name in (set(cfg) & _names_in(cfg).assigned) - known - variables_of(cfg, options):
        if not name.startswith("_") and (close := closest(name, alike, SLIP)) is not None:
            yield name, f"{name!r} is no setting, and is used nowhere: did you mean {close!r}? Or begin it with '_'."


def places_beside(cfg: Config, name: str) -> list[str]:
    """Dotted keys at which the value of a top-level name stands too."""
    return [key for key, one in _values(cfg._cfg_dict) if key.partition(".")[0] != name and one == cfg[name]]


def _stands_elsewhere(cfg: Config, name: str) -> bool:
    return isinstance(cfg[name], (str, Mapping, list, tuple)) and bool(cfg[name]) and bool(places_beside(cfg, name))


def _values(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a config, of sections too, by dotted key."""
    inside = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in inside:
        below = f"{path}.{key}" if path else str(key)
        yield below, value
        yield from _values(value, below)


def _names_in(cfg: Config) -> _Text:
    """Names that a config and its bases set at the top level, and those that they read."""
    if str(cfg.filename).endswith((".json", ".yaml", ".yml")):
        return _Text(frozenset(map(str, cfg)), frozenset(re.findall(r"_base_\.(\w+)", cfg.text)))
    return _names_in_python(cfg.text)


@lru_cache(maxsize=256)
def _names_in_python(text: str) -> _Text:
    try:
        body = ast.parse(_NAMED.sub("", text)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # bases in several languages
        return _Text(frozenset(), frozenset())
    assigned, read = set(), set()
    for statement in body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        assigned |= {target.id for target in targets if isinstance(target, ast.Name)}
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
                read.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "_base_":
                read.add(node.attr)
    return _Text(frozenset(assigned), frozenset(read))
