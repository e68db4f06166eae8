"""The figures of docs/start/which_method.md are those of the committed results."""

import csv
import re
from pathlib import Path

import pytest

from vpeft.apis.results.shown import spread_text

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "start/which_method.md").read_text()
#: The page's columns that are a board's mean, by the board's file.
BOARDS = {
    "image tasks": "mini",
    "mIoU": "nano_swin_segmentation",
    "box mAP": "nano_swin_detection",
}


def tables(text):
    """Tables of Markdown, each a list of rows by the head's names."""
    found = []
    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, flags=re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def table(text, *names):
    (found,) = [one for one in tables(text) if set(names) <= one[0].keys()]
    return found


def board(name):
    with open(DOCS / f"embedded/board_{name}-embedded.csv") as file:
        return {row["method"]: row for row in csv.DictReader(file) if row["source"] == "ours" and not row["variant"]}


FIGURES = {row["method"]: row for row in table(PAGE, "image tasks", "time")}


@pytest.mark.parametrize("column", BOARDS)
def test_accuracies(column):
    rows = board(BOARDS[column])
    for method, shown in FIGURES.items():
        mean, std = (float(rows[method][key] or "nan") for key in ("mean_of_tasks", "mean_of_tasks_std"))
        want = f"{100 * mean:.1f}" + (spread_text(std) if column == "image tasks" else "")
        assert shown[column] == want, method
        one_seed = method in ("Convpass", "DTL+", "HoulsbyAdapter", "VPTDeep") and column != "image tasks"
        assert rows[method]["seeds"] == ("1" if one_seed else "3"), method


def test_order_and_merging():
    rows = board("mini")
    assert list(FIGURES) == sorted(FIGURES, key=lambda method: -float(rows[method]["mean_of_tasks"]))
    assert {method: row["merges"] for method, row in FIGURES.items()} == {m: rows[m]["merges"] for m in FIGURES}


def test_time_and_memory_are_parts_of_full():
    rows = {row["entry"]: row for row in table((DOCS / "cost.md").read_text(), "entry", "saved MiB")}
    for method, shown in FIGURES.items():
        for column, key in (("time", "step ms"), ("memory", "saved MiB")):
            assert float(shown[column]) == pytest.approx(
                float(rows[method][key]) / float(rows["Full"][key]), abs=0.0051
            )


def test_parameters():
    text = (DOCS / "methods.md").read_text().partition("\n## Parameters")[2]
    rows = {row["method"]: row for row in table(text, "method", "ViT-B/16", "Swin-B")}
    for method, shown in FIGURES.items():
        assert shown["parameters"] == f"{float(rows[method]['ViT-B/16']):.2f}", method


def test_the_table_of_advice():
    """Methods that it calls first, cheap or small are."""
    rows, costs = board("mini"), (DOCS / "cost.md").read_text()
    best = sorted(rows, key=lambda method: -float(rows[method]["mean_of_tasks"]))[:3]
    assert f"| {', '.join(best[:2])}, {best[2]} | first on the embedded image tasks" in PAGE
    saved = {row["entry"]: row["saved MiB"] for row in table(costs, "entry", "saved MiB")}
    little = [float(saved[method]) / float(saved["Full"]) for method in ("LST", "LAST", "E3VA", "DTL")]
    assert f"{min(little):.2f} to {max(little):.2f} of what full fine-tuning saves" in PAGE
    for method in ("LoRA", "SSF", "FacT-TK", "RepAdapter", "ARC"):
        assert rows[method]["merges"] == "yes"
