"""How long the whole VTAB-1k table would take: arithmetic over what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vpeft.apis.results.published.columns import DENSE, SURVEY
from vpeft.core.datasets.tasks import SUITES

#: Of a run by the protocol: epochs, and images of an epoch.
EPOCHS, IMAGES = 100, 1000


def table_methods() -> list[str]:
    """The 27 registered methods of the survey's tables: those of VTAB-1k, and the dense table's adapter."""
    return list(dict.fromkeys([*SURVEY.values(), *DENSE.values()]))


def test_images() -> dict[str, int]:
    """Test images of each task of VTAB-1k."""
    return {name: task.test_size for name, task in SUITES["vtab"].items()}


def table_seconds(
    trained: Mapping[str, float],
    predicted: float,
    start: float,
    tests: Mapping[str, int],
    methods: list[str],
    seeds: int = 1,
) -> dict[str, Any]:
    """Seconds of a table of methods by tasks, one run after the other.

    A run takes ``start + EPOCHS * IMAGES / trained + test / predicted``; reading and augmenting images, which workers
    do meanwhile, is not in it.

    Args:
        trained: Images a second of a training step, by method.
        predicted: Images a second of a prediction.
        start: Seconds from the command to the first step.
        tests: Test images by task.
        methods: Rows; one that was not measured is named in ``lacking`` and left out.
        seeds: Runs of each cell.

    Returns:
        ``seconds``, of them ``training``, ``testing`` and ``starting``; ``runs``; ``lacking``.
    """
    known = [name for name in methods if name in trained]
    runs = len(known) * len(tests) * seeds
    training = sum(EPOCHS * IMAGES / trained[name] for name in known) * len(tests) * seeds
    testing = sum(tests.values()) / predicted * len(known) * seeds
    return {
        "seconds": training + testing + start * runs,
        "training": training,
        "testing": testing,
        "starting": start * runs,
        "runs": runs,
        "lacking": sorted({*methods} - {*known}),
    }


def table_figures(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The estimate for each batch size that was measured.

    Args:
        results: What parts have found, by name: ``throughput``, and ``start_up`` for the seconds before the first step
            (zero where it was not measured).
    """
    found = [row for row in results.get("throughput", {}).get("figures", []) if "value" in row]
    starts = [row for row in results.get("start_up", {}).get("figures", []) if row["what"].startswith("vpeft train")]
    start = next((row["seconds"] for row in starts if "seconds" in row), 0.0)
    rows = []
    for batch in sorted({row["batch"] for row in found if "batch" in row}):
        speed = {row["what"].rpartition(", batch ")[0]: row["value"] for row in found if row.get("batch") == batch}
        estimate = table_seconds(speed, speed["forward"], start, test_images(), table_methods())
        rows.append({"batch": batch, "start": start, **estimate})
    return rows
