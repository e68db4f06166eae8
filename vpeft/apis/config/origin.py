"""Who set which key of a config, and what it was before."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mmengine import Config

from vpeft.core.trained.folder import ORIGIN, read_origin
from vpeft.errors import UserError
from vpeft.registry import nearest

#: In the place of a value that was not there.
ABSENT = "(not set)"
#: The step in which a run was told to go on.
RESUME = "--resume"


def flatten(node: Any, into_lists: bool = True) -> dict[str, Any]:
    """A nested config as values by dotted key.

    Args:
        node: Dictionaries and lists.
        into_lists: Give the entries of a list of dictionaries keys of their own, as in ``param_scheduler.0.end``.
    """

    def walk(prefix: str, node: Any) -> None:
        listed = isinstance(node, (list, tuple)) and into_lists and any(isinstance(v, Mapping) for v in node)
        if not ((isinstance(node, Mapping) and node) or listed):
            flat[prefix] = node
            return
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            if key != "_delete_":
                walk(f"{prefix}.{key}" if prefix else str(key), value)

    flat: dict[str, Any] = {}
    walk("", node)
    return {} if flat == {"": {}} else flat


@dataclass
class OriginStep:
    """One step in which a config came to be.

    Attributes:
        name: Who set the keys.
        keys: Value before and value set, by dotted key.
        file: The file that was read in this step, whose bases say more.
    """

    name: str
    keys: dict[str, tuple[Any, Any]]
    file: str | None = None


@dataclass
class Origin:
    """How a config came to be.

    Attributes:
        options: The user's own (``--cfg-options``): values by dotted key.
        steps: In their order.
        changed: Keys that a run was resumed with other values of than it had begun with.
    """

    options: dict[str, Any] = field(default_factory=dict)
    steps: list[OriginStep] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    _last: dict[str, Any] = field(default_factory=dict, repr=False)

    def record(self, name: str, cfg: Config, set_: Iterable[str] = (), file: str | None = None) -> None:
        """Note a step that has just been taken.

        Args:
            name: Who took it.
            cfg: The config now.
            set_: Keys that it set, whether or not that changed them.
            file: The file that was read.
        """
        now, last, set_ = flatten(copy.deepcopy(cfg._cfg_dict.to_dict())), self._last, tuple(set_)
        keys = {
            key: (last.get(key, ABSENT), now.get(key, ABSENT))
            for key in dict.fromkeys([*now, *last])
            if key not in now or key not in last or now[key] != last[key] or any(is_inside(key, one) for one in set_)
        }
        if keys:
            self.steps.append(OriginStep(name, keys, file))
        self._last = now

    def as_json(self, config: str) -> dict[str, Any]:
        """What a run's folder keeps of its config, which is of that name."""
        steps = [{"step": s.name, "file": s.file, "set": {k: list(v) for k, v in s.keys.items()}} for s in self.steps]
        record = {"config": config, "steps": steps, "options": self.options, "changed": self.changed}
        return json.loads(json.dumps(record, default=repr))


def is_inside(key: str, other: str) -> bool:
    """Whether a dotted key is another one, or lies inside what that one names."""
    return key == other or key.startswith(f"{other}.")


def origin_of(cfg: Config) -> Origin:
    """The record that a config carries; a new one where it was not read by ``load_config``."""
    if "_origin" not in cfg.__dict__:
        give_origin(cfg, Origin())
        cfg.__dict__["_origin"].record("the config as it was given", cfg)
    return cfg.__dict__["_origin"]


def give_origin(cfg: Config, origin: Origin) -> None:
    """Let a config carry a record; it is no field, and goes along with copies."""
    cfg.__dict__["_origin"] = origin


def set_by_command(cfg: Config, settings: Mapping[str, Any], by: str) -> None:
    """Put in, in place, what a command sets by itself; what the user has set by hand is never put back.

    Args:
        cfg: The config.
        settings: Values by dotted key.
        by: What sets them, for messages: ``--seed``.

    Raises:
        UserError: The user's ``--cfg-options`` say otherwise.
    """
    origin = origin_of(cfg)
    for key, value in settings.items():
        for given, wanted in origin.options.items():
            own = {f"{key}.{name}".rstrip("."): one for name, one in flatten(value).items()}
            inside = is_inside(given, key) and not isinstance(value, Mapping)
            if own[given] != wanted if given in own else inside:
                raise UserError(
                    f"--cfg-options {given}={wanted!r} contradicts {by}, which sets {key}={value!r}: give one of them."
                )
    cfg.merge_from_dict(dict(settings))
    origin.record(by, cfg, settings)


def is_given(cfg: Config, key: str) -> bool:
    """Whether the user has set a key, or something inside it, by hand."""
    return any(is_inside(given, key) for given in origin_of(cfg).options)


def stored_origin(file: Path) -> Origin | None:
    """The record beside a config that a run has written, None where there is none.

    Raises:
        UserError: It is broken.
    """
    stored = read_origin(file.parent)
    if stored is None or stored.get("config") != file.name:
        return None
    try:
        return Origin(
            steps=[
                OriginStep(s["step"], {k: (v[0], v[1]) for k, v in s["set"].items()}, s["file"])
                for s in stored["steps"]
            ]
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{file.parent / ORIGIN} is no record of a config ({error!r}): delete it.") from error


def why(cfg: Config, key: str) -> str:
    """Who set a key of a config, the last one first, and what it was before.

    Args:
        cfg: A config of ``load_config``.
        key: Dotted key of a value, or of what holds several.

    Raises:
        UserError: No step has set such a key; the message names the nearest.
    """
    steps, known = origin_of(cfg).steps, flatten(cfg._cfg_dict.to_dict())
    keys = [k for k in dict.fromkeys([*known, *(k for step in steps for k in step.keys)]) if is_inside(k, key)]
    if not keys:
        close = nearest(key, {*known, *(k.rpartition(".")[0] for k in known)}).partition("Known:")[0].strip()
        raise UserError(f"--why {key}: the config has no such key: {close or 'without --why it is printed whole.'}")
    lines = []
    for one in keys:
        lines.append(f"{one} = {known.get(one, ABSENT)!r}" if one in known else f"{one}: {ABSENT}")
        for step in reversed(steps):
            if one in step.keys:
                before, value = step.keys[one]
                of_file = _by_file(step.file, one) if step.file and Path(step.file).is_file() else []
                lines += [f"    {value!r}  by {name}" for name, value in reversed(of_file)] or [
                    f"    {value!r}  by {step.name}" + ("" if before == ABSENT else f", before: {before!r}")
                ]
    return "\n".join(lines)


@cache
def _values(file: str) -> dict[str, Any]:
    return flatten(Config.fromfile(file)._cfg_dict.to_dict())


def _by_file(file: str, key: str) -> list[tuple[str, Any]]:
    """The files that set a key, among a file and its bases, the lowest first."""
    bases = [str(Path(file).parent / base) for base in Config._get_base_files(file) if "::" not in base]
    found = [one for base in bases if key in _values(base) for one in _by_file(base, key)]
    value = _values(file).get(key, ABSENT)
    if value != (found[-1][1] if found else ABSENT):
        found.append((str(Path(file).resolve().relative_to(Path.cwd())) if _here(file) else file, value))
    return found


def _here(file: str) -> bool:
    return Path(file).resolve().is_relative_to(Path.cwd())
