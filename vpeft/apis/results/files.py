"""The files that runs leave behind, one JSON each, and the cells that are made of them.

A file ``<results>/runs/<config>/<task>/seed<seed>-<hash>.json`` holds what
:func:`vpeft.core.trained.result.run_result` says of a run, and besides

==============  ====================================================================================================
``format``      :data:`FORMAT`
``status``      ``ok`` or ``failed``; a failed one has ``error`` (text) and only the fields that name the run
``hash``        of ``setting`` and the seed
``setting``     of the effective config, data variant included (:func:`vpeft.apis.config.setting.setting_hash`)
``method``      label of the row: the plan's, or the registered names of the methods
``backbone``    label of the host as in the config's name, such as ``nano_vit``
``task``        label of the column; ``group`` is VTAB's, None where the task is of no suite
``variant``     what the plan changes by dotted key, ``shots`` included; empty for the config as it is
``protocol``    what the run looked at, and ``faults``: why it is left out of leaderboards (:mod:`.protocol`)
``tuning``      budget and storage of the search that its setting is from, None where it is the config's own
``main_metric`` ``name`` and ``value`` in [0, 1]
``cost``        what it took, each figure by the name that it has everywhere (:mod:`.costs`)
``written``     when, UTC
``checksum``    SHA-256 of all of this without the checksum
==============  ====================================================================================================

A file that was truncated, edited by hand or made by something else is named with the reason, and left out.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from vpeft.apis.results.index import Index, file_state
from vpeft.apis.results.packed import each_packed, folder_of, is_packed
from vpeft.errors import UserError
from vpeft.files import schema_fault, write_json
from vpeft.registry import nearest

FORMAT = 1
RUNS = "runs"
#: Beside ``runs``: what was read of the files (:mod:`.index`). It may be removed at any time.
INDEX = ".results.sqlite"

#: Of :func:`read_result`: another number, and every file is read again.
READING = 1
#: The largest file that is read, and the longest name: more is no result of a run.
MOST_BYTES, LONGEST_NAME = 64 * 2**20, 300

_REPAIR = "delete it and run the benchmark again"

_TEXT, _NUMBER, _COUNT = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}
_NAME = {"type": "string", "maxLength": LONGEST_NAME}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(required: Mapping[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": sorted(required), "properties": {**required, **optional}}


_NAMES = {
    "format": {"const": FORMAT},
    "status": {"enum": ["ok", "failed"]},
    "hash": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "setting": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "checksum": _TEXT,
    "config": _NAME,
    "method": _NAME,
    "backbone": _NAME,
    "task": _NAME,
    "group": _or_null(_NAME),
    "suite": _or_null(_NAME),
    "variant": {"type": "object", "properties": {"shots": _or_null({"type": "integer", "minimum": 1})}},
    "seed": {"type": "integer"},
    "written": _TEXT,
}
_SHOWN = {
    "metrics": {"type": "object", "additionalProperties": {"type": ["number", "null", "string", "array", "object"]}},
    "main_metric": _object({"name": _NAME, "value": {"type": "number", "minimum": 0, "maximum": 1}}),
    "ppt": _NUMBER,
    "parameters": _object(
        {"trainable_without_head": _COUNT, "head": _COUNT, "total": _COUNT, "frozen": _COUNT}, stored_bytes=_COUNT
    ),
    "protocol": _object({"faults": {"type": "array", "items": _TEXT}, "test_looks": _COUNT}),
    "tuning": _or_null({"type": "object", "properties": {"trials": _or_null(_NUMBER)}}),
    "cost": _object(
        {"step_seconds": _or_null(_NUMBER), "adapter_bytes": _COUNT},
        step_ratio=_or_null(_NUMBER),
        reference_seconds=_or_null(_NUMBER),
        step_rounds=_or_null(_COUNT),
        quiet_rounds=_or_null(_COUNT),
        saved_bytes=_or_null(_COUNT),
        peak_bytes=_or_null(_COUNT),
        parameter_bytes=_or_null(_COUNT),
        peak_memory_bytes=_or_null(_COUNT),
        train_seconds=_or_null(_NUMBER),
        inference_ratio=_or_null(_NUMBER),
        merged_ratio=_or_null(_NUMBER),
        device=_or_null(_TEXT),
        threads=_or_null(_COUNT),
        load=_or_null({"type": "number", "minimum": 0}),
        memory_is=_or_null(_TEXT),
        unmeasured=_TEXT,
    ),
    "methods": {"type": "array", "items": _object({"type": _TEXT})},
    "host": _NAME,
    "data_variant": _NAME,
    "versions": {"type": "object"},
    "full_config": _TEXT,
}
#: Of :mod:`vpeft.core.families.tested`.
_TESTED = {
    **_object({"images": _COUNT}),
    "anyOf": [
        _object({"right": {"type": "string", "pattern": "^([0-9a-f]{2})*$"}}),
        _object({"regions": {"type": "object", "additionalProperties": {"type": "array", "items": _COUNT}}}),
    ],
}
#: JSON schema of a result file.
SCHEMA = {
    **_object(_NAMES, git=_or_null(_TEXT), code=_or_null(_TEXT), normalisation=_or_null(_TEXT)),
    "if": {"properties": {"status": {"const": "ok"}}},
    "then": _object(_SHOWN, test_answers=_TESTED),
    "else": _object({"error": _TEXT}),
}


def checksum(result: Mapping[str, Any]) -> str:
    """SHA-256 over a result's canonical JSON, its own checksum left out."""
    return digest({k: v for k, v in result.items() if k != "checksum"})


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_result(path: str | os.PathLike[str], result: Mapping[str, Any]) -> None:
    """Write a result atomically, with its format, time and checksum.

    Raises:
        UserError: It does not follow the schema, or cannot be written.
    """
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    sealed = {"format": FORMAT, **result, "written": now}
    sealed = json.loads(json.dumps(sealed))  # as it will be read: tuples become lists
    sealed["checksum"] = checksum(sealed)
    if fault := _fault(sealed):
        raise UserError(f"{path} would be no valid result: {fault}.")
    write_json(path, sealed)


def _fault(result: Any) -> str | None:
    error = schema_fault(result, SCHEMA)
    if error is None:
        return None
    where = ".".join(map(str, error.absolute_path))
    return f"{where + ': ' if where else ''}{error.message[:200]}"


def read_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read one result.

    Raises:
        UserError: It is truncated, too large, follows another schema, or was changed after it was written.
    """
    try:
        if not Path(path).is_file():
            raise UserError(f"{path} is no file.")
        if (size := Path(path).stat().st_size) > MOST_BYTES:
            raise UserError(f"{path} is too large for a result ({size:,} bytes).")
        text = Path(path).read_bytes().decode()
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    except ValueError as error:
        raise UserError(f"{path} is truncated or no JSON ({error}): {_REPAIR}.") from error
    return _result_of(text, str(path))


def _result_of(text: str, where: str) -> dict[str, Any]:
    try:
        result = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
        json.dumps(result, ensure_ascii=False).encode()  # halves of signs are no text
        fault, sealed = _fault(result), isinstance(result, dict) and checksum(result)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is truncated or no JSON ({error}): {_REPAIR}.") from error
    if fault:
        raise UserError(f"{where} is no result of the benchmark ({fault}).")
    if result["checksum"] != sealed:
        raise UserError(f"{where} was changed after it was written (its checksum differs): delete it and run it again.")
    return result


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value


def _whole(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


@dataclass
class Results:
    """Results of a folder.

    Attributes:
        root: The folder.
        runs: Files and their results, by path.
        broken: What is wrong with each file that was left out.
        names: Names below their own folders, where they are of several.
    """

    root: Path
    runs: dict[Path, dict[str, Any]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    names: dict[Path, PurePath] = field(default_factory=dict)

    def name_of(self, path: Path) -> PurePath:
        """A run's name below the folder that it was in."""
        return self.names.get(path) or path.relative_to(self.root)

    def where(self, keep: Callable[[dict[str, Any]], bool]) -> Results:
        """Those that ``keep`` says yes to."""
        return Results(self.root, {p: r for p, r in self.runs.items() if keep(r)}, self.broken, self.names)

    def ok(self) -> Results:
        """Those that did not fail."""
        return self.where(lambda r: r["status"] == "ok")

    def honest(self) -> Results:
        """Those that followed the protocol."""
        return self.ok().where(lambda r: not r["protocol"]["faults"])

    def filtered(self, **fields: Sequence[Any] | None) -> Results:
        """Those whose field has one of the given values; None asks for nothing.

        Raises:
            UserError: A value is that of no result; the message names the nearest.
        """
        found = self
        for name, wanted in fields.items():
            if wanted is None:
                continue
            known = {str(r[name]) for r in self.runs.values()}
            for value in map(str, wanted):
                if value not in known:
                    raise UserError(f"no result here has {name} {value!r}: {nearest(value, known)}")
            values = {str(value) for value in wanted}
            found = found.where(lambda r, n=name, v=values: str(r[n]) in v)
        return found


def read_results(root: str | os.PathLike[str]) -> Results:
    """Every result below ``<root>/runs``, or of a file of packed ones (:mod:`.packed`); broken files are named in
    ``broken``.

    Those that have not changed since they were read are not opened again: :data:`INDEX` has them.

    Raises:
        UserError: The folder does not exist, or the file is not whole.
    """
    if is_packed(root):
        named = {name: _result_of(text, f"{root}: {name}") for name, text in each_packed(root)}
        return Results(folder_of(root), {folder_of(root) / name: result for name, result in named.items()})
    folder = Path(root) / RUNS
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: give the folder that tools/benchmark.py wrote its results to.")
    results, index = Results(Path(root)), Index(Path(root) / INDEX, digest([READING, SCHEMA]))
    for path in sorted(folder.rglob("[!.]*.json")):
        try:
            results.runs[path] = _indexed(index, os.fsencode(path.relative_to(folder)), path)
        except UserError as error:
            results.broken.append(str(error))
    index.close()
    return results


def _indexed(index: Index, name: bytes, path: Path) -> dict[str, Any]:
    """A result as the index has it, else as its file says; the state is asked for before the file is read."""
    try:
        state = file_state(path)
    except OSError:
        return read_result(path)  # says why
    if (found := index.get(name, state)) is None:
        found = read_result(path)
        index.put(name, state, found)
    return found


# Cells --------------------------------------------------------------------------------------------------------------

#: What a row stands for: label of the method, backbone, and the variant as text (empty for the config as it is).
Row = tuple[str, str, str]


def row_of(result: Mapping[str, Any]) -> Row:
    """The row that a result belongs to."""
    return result["method"], result["backbone"], ", ".join(settings(result["variant"]))


def settings(variant: Mapping[str, Any]) -> list[str]:
    """What a variant changes, ``key=value`` each."""
    return [f"{key.rsplit('.', 1)[-1]}={_short(value)}" for key, value in sorted(variant.items())]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def row_name(row: Row, rows: Iterable[Row]) -> str:
    """A row's name, as short as it can be among ``rows``: the backbone is named only where there are several, settings
    only where not all have them (:func:`shared`).
    """
    return row_names([row], rows)[row]


def row_names(named: Iterable[Row], rows: Iterable[Row]) -> dict[Row, str]:
    """The names of several rows, each as :func:`row_name` gives it."""
    rows = list(rows)
    several, common, names = len({r[1] for r in rows}) > 1, shared_settings(rows), {}
    for row in named:
        method, backbone, variant = row
        own = ", ".join(one for one in _split(variant) if one not in common)
        names[row] = method + (f" on {backbone}" if several else "") + (f" ({own})" if own else "")
    return names


def shared_settings(rows: Iterable[Row]) -> list[str]:
    """What all of several rows change in their configs, ``key=value`` each; of one row nothing is shared."""
    several = [_split(variant) for _, _, variant in set(rows)]
    return [one for one in several[0] if all(one in other for other in several)] if len(several) > 1 else []


@cache
def _split(variant: str) -> tuple[str, ...]:
    return tuple(re.split(r", (?=\w+=)", variant)) if variant else ()


@dataclass
class Cell:
    """A row's runs on one task: one setting, one run a seed.

    Attributes:
        values: Main metric in [0, 1] by seed.
        runs: Files by seed.
        older: Files that were left out since another setting of the same config was written later.
    """

    values: dict[int, float] = field(default_factory=dict)
    runs: dict[int, Path] = field(default_factory=dict)
    older: list[Path] = field(default_factory=list)


def cells(results: Results) -> dict[Row, dict[str, Cell]]:
    """Cells by row and task, from the runs that did not fail.

    Where a config was changed between runs of one row and task, the setting that was written last counts.
    """
    grouped: dict[tuple[Row, str], list[tuple[Path, dict[str, Any]]]] = {}
    for path, result in results.ok().runs.items():
        grouped.setdefault((row_of(result), result["task"]), []).append((path, result))
    table: dict[Row, dict[str, Cell]] = {}
    for (row, task), runs in sorted(grouped.items(), key=lambda item: item[0]):
        last = runs[0][1]["setting"]
        if any(result["setting"] != last for _, result in runs):
            last = max(runs, key=lambda run: (run[1]["written"], str(run[0])))[1]["setting"]
        cell = Cell()
        for path, result in sorted(runs, key=lambda run: run[1]["seed"]):
            if result["setting"] != last:
                cell.older.append(path)
                continue
            cell.values[result["seed"]] = result["main_metric"]["value"]
            cell.runs[result["seed"]] = path
        table.setdefault(row, {})[task] = cell
    return table
