"""Predictions as JSON, CSV, and a table on the screen."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vpeft.apis.predict.predictor import Predictor
from vpeft.apis.predict.results import BoxPrediction, ClassPrediction, FailedInput, MapPrediction, Prediction
from vpeft.errors import UserError, printable
from vpeft.files import write_atomically

FORMAT = "vpeft-predictions-1"
COLUMNS = {
    ClassPrediction: ("file", "class", "label", "score"),
    BoxPrediction: ("file", "class", "label", "score", "left", "top", "right", "bottom"),
    MapPrediction: ("file", "class", "label", "share"),
}
#: Rows of the table on the screen for one image.
ROWS = 10


def json_text(run: Predictor, found: Sequence[Prediction | FailedInput]) -> str:
    """All predictions as one JSON: ``predictions`` in the order given, ``failed`` with reasons, classes and family."""
    value: dict[str, Any] = {
        "format": FORMAT,
        "run": str(run.file),
        "family": run.family,
        "classes": list(run.classes),
        "predictions": [one.as_json() for one in found if not isinstance(one, FailedInput)],
        "failed": [one.as_json() for one in found if isinstance(one, FailedInput)],
    }
    try:
        return json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise UserError(f"{run.file}: its model answers with NaN or infinity: the training has diverged.") from error


def write_csv(found: Sequence[Prediction | FailedInput], out: str | Path) -> Path:
    """Write a row for every class, box or class of a label map; the first row names the columns."""
    good = [one for one in found if not isinstance(one, FailedInput)]
    text = io.StringIO()
    columns = COLUMNS[type(good[0])] if good else ("file",)
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for one in good for row in one.rows())
    return write_atomically(Path(out), text.getvalue().encode("utf-8", "surrogateescape"))


def print_table(found: Sequence[Prediction | FailedInput], console: Console) -> None:
    """Print a table of the predictions, the best classes or boxes of each image."""
    good = [one for one in found if not isinstance(one, FailedInput)]
    if not good:
        return
    value = "share" if isinstance(good[0], MapPrediction) else "score"
    table = Table("file", "class", value, *(("box",) if isinstance(good[0], BoxPrediction) else ()), box=None)
    table.columns[2].justify = "right"
    for one in good:
        rows = one.rows()
        if not rows:
            table.add_row(escape(printable(one.name)), "[dim]nothing above the threshold[/]", "")
        for place, row in enumerate(rows[:ROWS]):
            name = escape(printable(one.name)) if place == 0 else ""
            cells = [name, escape(printable(row["class"])), f"{100 * row[value]:.1f} %"]
            if "left" in row:
                cells.append(" ".join(f"{row[key]:.0f}" for key in ("left", "top", "right", "bottom")))
            table.add_row(*cells)
        if len(rows) > ROWS:
            table.add_row("", f"[dim]and {len(rows) - ROWS} more[/]", "")
    console.print(table)
