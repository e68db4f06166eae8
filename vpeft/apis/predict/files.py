"""Predictions as JSON, CSV, and a table on the screen."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vpeft.apis.predict.predictor import Predictor
from vpeft.apis.predict.results import BoxPrediction, ClassPrediction, FailedInput, MapPrediction, Prediction
from vpeft.errors import UserError, printable

FORMAT = "vpeft-predictions-1"
COLUMNS = {
    ClassPrediction: ("file", "class", "label", "score"),
    BoxPrediction: ("file", "class", "label", "score", "left", "top", "right", "bottom"),
    MapPrediction: ("file", "class", "label", "share"),
}
#: Rows of the table on the screen for one image, and images in it.
ROWS, IMAGES_SHOWN = 10, 100


class Answered:
    """What is kept of predictions until all are there: words and numbers, no maps and masks.

    Args:
        whole: Keep what JSON holds too.

    Attributes:
        kind: The class of the predictions; None where all have failed.
        rows: Of every prediction its name and its rows of a table.
        whole: Of every prediction what JSON holds.
        failed: The same of what could not be read.
    """

    def __init__(self, whole: bool) -> None:
        self.kind: type | None = None
        self.rows: list[tuple[str, list[dict[str, Any]]]] = []
        self.whole: list[dict[str, Any]] | None = [] if whole else None
        self.failed: list[dict[str, Any]] = []

    def add(self, one: Prediction | FailedInput) -> None:
        """Keep the words and numbers of one."""
        if isinstance(one, FailedInput):
            self.failed.append(one.as_json())
            return
        self.kind = type(one)
        self.rows.append((one.name, one.rows()))
        if self.whole is not None:
            self.whole.append(one.as_json())


def json_text(run: Predictor, found: Answered) -> str:
    """All predictions as one JSON: ``predictions`` in the order given, ``failed`` with reasons, classes and family."""
    value: dict[str, Any] = {
        "format": FORMAT,
        "run": str(run.file),
        "family": run.family,
        "classes": list(run.classes),
        "predictions": found.whole,
        "failed": found.failed,
    }
    try:
        return json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise UserError(f"{run.file}: its model answers with NaN or infinity: the training has diverged.") from error


def predictions_csv(found: Answered) -> str:
    """A row for every class, box or class of a label map; the first row names the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS.get(found.kind, ("file",)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for _, rows in found.rows for row in rows)
    return text.getvalue()


def print_table(found: Answered, console: Console) -> None:
    """Print a table of the predictions, the best classes or boxes of each image."""
    if not found.rows:
        return
    value = "share" if found.kind is MapPrediction else "score"
    table = Table("file", "class", value, *(("box",) if found.kind is BoxPrediction else ()), box=None)
    table.columns[2].justify = "right"
    for image, rows in found.rows[:IMAGES_SHOWN]:
        if not rows:
            table.add_row(escape(printable(image)), "[dim]nothing above the threshold[/]", "")
        for place, row in enumerate(rows[:ROWS]):
            name = escape(printable(image)) if place == 0 else ""
            cells = [name, escape(printable(row["class"])), f"{100 * row[value]:.1f} %"]
            if "left" in row:
                cells.append(" ".join(f"{row[key]:.0f}" for key in ("left", "top", "right", "bottom")))
            table.add_row(*cells)
        if len(rows) > ROWS:
            table.add_row("", f"[dim]and {len(rows) - ROWS} more[/]", "")
    console.print(table)
    if len(found.rows) > IMAGES_SHOWN:
        console.print(f"and {len(found.rows) - IMAGES_SHOWN} images more: --csv or --json writes all")
