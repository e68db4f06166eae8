"""A table of methods by tasks on the embedded mini-benchmark."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import statistics
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpeft.apis.config import load_config
from vpeft.apis.run import ADAPTER, prepare, test, train
from vpeft.core.datasets.tasks import GROUPS, MINI
from vpeft.core.report import ppt

Job = tuple[str, str, int, str]


def run_job(job: Job) -> dict[str, Any]:
    """Train and test one config on one task with one seed; a result that is there already is read.

    Args:
        job: Config file, task, seed, and the folder of all runs.

    Returns:
        The result, or ``error`` where the run failed.
    """
    import torch

    path, task, seed, out = job
    work_dir = Path(out) / Path(path).stem / task / str(seed)
    file = work_dir / "result.json"
    if not file.is_file():
        torch.set_num_threads(1)
        options = {"log_level": "ERROR"}
        try:
            train(prepare(load_config(path, task, options), str(work_dir), seed=seed))
            test(prepare(load_config(path, task, options), str(work_dir), seed=seed), str(work_dir / ADAPTER))
        except Exception:
            return {"config": Path(path).name, "task": task, "seed": seed, "error": traceback.format_exc()}
    return json.loads(file.read_text())


def run_table(configs: Sequence[str], tasks: Sequence[str], seeds: Sequence[int], out: str, jobs: int) -> list[dict]:
    """Run every config on every task with every seed, ``jobs`` at a time, with a line per finished run."""
    todo = [(c, t, s, out) for c, t, s in itertools.product(configs, tasks, seeds)]
    results = []
    # The output is for people who wait; mmengine's own start-up pages go to the log files.
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=_quiet) as pool:
        for i, result in enumerate(pool.imap_unordered(run_job, todo), start=1):
            top1 = result.get("metrics", {}).get("accuracy/top1")
            shown = f"{top1:6.2f} %" if top1 is not None else "FAILED\n" + result["error"]
            print(
                f"[{i}/{len(todo)}] {Path(result['config']).stem} {result['task']} seed {result['seed']}: {shown}",
                flush=True,
            )
            results.append(result)
    return results


def _quiet() -> None:
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (for the life of the worker)


def markdown(
    results: Sequence[dict[str, Any]], tasks: Sequence[str], cost: str | os.PathLike[str] | None = None
) -> str:
    """Mean and standard deviation over seeds per task, both averages, and PPT of the mean over tasks.

    Args:
        results: Results of :func:`run_table`.
        tasks: Columns; a config that lacks a result for one is left out.
        cost: A result file of ``benchmarks/train_step.py``: adds step time and peak activation memory relative to full
            fine-tuning.
    """
    cells: dict[str, dict[str, list[float]]] = {}
    about: dict[str, dict[str, Any]] = {}
    for r in sorted(results, key=lambda r: r["seed"]):  # a mean over tasks is of one seed
        if "error" not in r:
            name = Path(r["config"]).stem
            cells.setdefault(name, {}).setdefault(r["task"], []).append(r["metrics"]["accuracy/top1"])
            about[name] = r
    ratios = {} if cost is None else cost_of_full(json.loads(Path(cost).read_text()))
    head = ["config", "parameters", *tasks, f"mean of {len(tasks)}", "mean of groups", "PPT"]
    head += ["step time / full", "memory / full"] if cost else []
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    rows = []
    for name, by_task in cells.items():
        if set(by_task) != set(tasks):
            continue
        means = {task: statistics.mean(values) for task, values in by_task.items()}
        groups = [[means[t] for t in tasks if MINI[t].group == g] for g in GROUPS]
        overall = statistics.mean(means.values())
        by_group = statistics.mean(statistics.mean(g) for g in groups if g)
        seeds = min(len(values) for values in by_task.values())
        spread = (
            statistics.stdev(statistics.mean(by_task[t][i] for t in tasks) for i in range(seeds)) if seeds > 1 else 0.0
        )
        parameters = about[name]["parameters"]["trainable_without_head"]
        row = [name, f"{parameters:,}", *(f"{means[t]:.1f}" for t in tasks)]
        row += [f"**{overall:.1f}** ± {spread:.1f}", f"{by_group:.1f}", f"{ppt(overall / 100, parameters):.3f}"]
        if cost:
            row += ratios.get(about[name]["methods"][0]["type"], ("", ""))
        rows.append((overall, "| " + " | ".join(row) + " |"))
    return "\n".join(lines + [row for _, row in sorted(rows)]) + "\n"


def cost_of_full(benchmark: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Step time and peak activation memory of every method, relative to ``Full`` in the same benchmark."""
    entries = {e["name"]: e for e in benchmark["entries"] if e["trainable"] is not None}
    full = entries["Full"]
    return {
        name: (
            f"{e['time_ratio']['median'] / full['time_ratio']['median']:.2f}",
            f"{e['peak_bytes'] / full['peak_bytes']:.2f}",
        )
        for name, e in entries.items()
    }
