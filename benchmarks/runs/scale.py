"""What do 100,000 result files, and a plan of 19 tasks x 70 methods x 3 seeds, cost by themselves?

    OMP_NUM_THREADS=1 python benchmarks/runs/scale.py --files 100000
    OMP_NUM_THREADS=1 python benchmarks/runs/scale.py --plan 19 70 3
    OMP_NUM_THREADS=1 python benchmarks/runs/scale.py --plan 19 70 3 --forked     # by the local engine's processes

Nothing is trained. Result files are drawn, read without an index and with it, and made into the leaderboard; a plan of
ViT-B/16's configs is worked off with runs that write a drawn result at once: half of it, then, started again, the rest,
then once more with nothing to do, and the results are read, without an index but for the last time. That is done for
half of the methods, and for all: what grows with the runs, and no faster, takes twice the time. Seconds are of the
clock and of the processor (this process alone); result files that are opened and looks for ends are counted, so that
what grows faster than the runs is seen on a busy machine too.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vpeft  # isort: skip  # noqa: F401  mends torchvision

from vpeft.apis.benchmark import run_job
from vpeft.apis.benchmark.estimate import Estimate
from vpeft.apis.benchmark.plan import Plan, _load
from vpeft.apis.benchmark.run_job import RunJob
from vpeft.apis.config.setting import _setting, effective_config
from vpeft.apis.jobs.engines.engine import Engine
from vpeft.apis.jobs.engines.local import LocalEngine
from vpeft.apis.jobs.job import Outcome, execute
from vpeft.apis.jobs.scheduler import run_jobs
from vpeft.apis.leaderboard.write import write_leaderboard
from vpeft.apis.results import files
from vpeft.core.datasets.tasks import SUITES
from vpeft.core.families.metrics import ppt
from vpeft.files import write_json

SUITE = "vtab"
#: Runs of a row of drawn files: every task with three seeds.
SEEDS = 3


def drawn_result(value: float, full_config: str) -> dict[str, Any]:
    """What a run says of itself besides its names; ``value`` in [0, 1]."""
    return {
        "metrics": {"accuracy/top1": 100 * value},
        "main_metric": {"name": "accuracy/top1", "value": value},
        "ppt": ppt(value, 300_000),
        "parameters": {"trainable_without_head": 300_000, "head": 7690, "total": 86_000_000, "frozen": 85_700_000},
        "protocol": {"train_split": "train800val200", "eval_split": "test", "test_looks": 1, "faults": []},
        "cost": {"step_seconds": 0.1, "train_seconds": 4.0, "saved_bytes": 10**9, "adapter_bytes": 1_200_000},
        "methods": [{"type": "LoRA"}],
        "host": "mmpretrain.VisionTransformer",
        "data_variant": "files",
        "git": None,
        "versions": {"torch": "2.13.0"},
        "full_config": full_config,
    }


@dataclass
class DrawnRun(RunJob):
    """A run that draws its result instead of training."""

    def _run(self) -> dict[str, Any]:
        return {**drawn_result(random.Random(self.name).random(), ""), **self._names("ok")}


# Files --------------------------------------------------------------------------------------------------------------


def write_drawn(root: Path, count: int) -> None:
    """Result files of LoRA in as many sizes as it takes, sealed, without the checks of a run's own."""
    text = effective_config("configs/vtab/lora_vit.py", "cifar100", {}, {}).pretty_text
    tasks, drawn = list(SUITES[SUITE].values()), random.Random(0)
    for number in range(count):
        row, place = divmod(number, len(tasks) * SEEDS)
        task, seed = tasks[place // SEEDS], place % SEEDS
        names = {"format": files.FORMAT, "status": "ok", "config": f"lora{row}_vit.py", "method": "LoRA"}
        names |= {"backbone": "vit", "task": task.name, "suite": SUITE, "group": task.group, "seed": seed}
        names |= {"variant": {"model.backbone.method.rank": row + 1}, "tuning": None, "written": "2026-01-01"}
        names |= {"setting": files.digest([row, task.name]), "hash": files.digest([row, task.name, seed])}
        result = {**names, **drawn_result(drawn.random(), f"{text}\nrank = {row + 1}\nseed = {seed}\n")}
        path = root / files.RUNS / f"lora{row}_vit" / task.name / f"seed{seed}-{names['hash'][:12]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**result, "checksum": files.checksum(result)}, indent=2) + "\n")


def read_files(count: int, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Write drawn files, read them, make the page."""
    with tempfile.TemporaryDirectory() as folder, _counted_reads() as opened:
        root = Path(folder)
        rows = [_timed(f"draw and write {count:,} result files", lambda: write_drawn(root, count), report)]
        time.sleep(2.5)  # younger files are not indexed
        for name in ("read them, no index there", "read them again"):
            opened.clear()
            rows.append(_timed(name, lambda: files.read_results(root), report, opened))
        results = files.read_results(root)
        rows.append(_timed("the leaderboard of them", lambda: write_leaderboard(results), report))
        opened.clear()
        together = _timed("read and leaderboard, as the command", lambda: _page(root), report, opened)
        index = (root / files.INDEX).stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return [*rows, together, {"what": "bytes of the index a file", "bytes": index / count}, _memory(peak)]


def _page(root: Path) -> None:
    write_leaderboard(files.read_results(root))


def _memory(peak: float) -> dict[str, Any]:
    return {"what": "most memory of the process, MiB", "mib": peak}


@contextmanager
def _counted_reads() -> Iterator[list[Any]]:
    """The result files that are opened."""
    read, found = files.read_result, []
    files.read_result = run_job.read_result = lambda path: found.append(path) or read(path)
    try:
        yield found
    finally:
        files.read_result = run_job.read_result = read


def _timed(
    what: str, deed: Callable[[], Any], report: Callable[[str], None], opened: Sequence[Any] | None = None
) -> dict[str, Any]:
    clock, processor = time.perf_counter(), time.process_time()
    deed()
    row = {"what": what, "seconds": time.perf_counter() - clock, "processor": time.process_time() - processor}
    row |= {} if opened is None else {"opened": len(opened)}
    report(line(row))
    return row


# The plan -----------------------------------------------------------------------------------------------------------


class _AtOnce(Engine):
    """Runs some jobs in this process at every look: what is left is the work around the runs."""

    slots, one_machine = 8, True

    def __init__(self) -> None:
        self.waiting: deque[Any] = deque()
        self.looks = 0

    def submit(self, jobs: Sequence[Any]) -> None:
        self.waiting.extend(jobs)

    def finished(self, timeout: float) -> list[tuple[Any, Outcome]]:
        self.looks += 1
        some = [self.waiting.popleft() for _ in range(min(self.slots, len(self.waiting)))]
        return [(job, execute(job)) for job in some]


class _Forked(LocalEngine):
    """The local engine, whose looks are counted."""

    looks = 0

    def finished(self, timeout: float) -> list[tuple[Any, Outcome]]:
        self.looks += 1
        return super().finished(timeout)


def method_names(count: int) -> list[str]:
    """The first so many methods of ViT-B/16's configs, as a plan names them."""
    files = sorted(Path("configs", SUITE).glob("*_vit.py"))
    names = [file.stem.removesuffix("_vit") for file in files if "supernet" not in file.stem]
    if count > len(names):
        raise SystemExit(f"--plan: there are {len(names)} methods, and {count} are asked for")
    return names[:count]


def planned(root: Path, tasks: int, methods: int, seeds: int) -> list[DrawnRun]:
    """The runs of a plan of so many tasks, methods and seeds, each known by its setting, as a new process makes it."""
    for kept in (_load, _setting):
        kept.cache_clear()
    plan = Plan(methods=method_names(methods), backbones=["vit"], folder=SUITE, tasks=list(SUITES[SUITE])[:tasks])
    plan.seeds = list(range(seeds))
    fields = RunJob.__dataclass_fields__
    found = [DrawnRun(**{f: getattr(job, f) for f in fields}) for job in plan.jobs(str(root))]
    for job in found:
        job.name  # noqa: B018  reads its config, once for all seeds
    return found


def walk_plan(
    tasks: int, methods: int, seeds: int, report: Callable[[str], None], forked: bool = False
) -> list[dict[str, Any]]:
    """Walk through a plan of half of the methods and through that of all; what each step took, and the ratios."""
    if methods < 2 or methods % 2:
        raise SystemExit(f"--plan: {methods} methods have no half: give an even number")
    method_names(methods)
    _walked(1, 2, 1, lambda said: None, forked)  # what is made once in a process
    small, whole = (_walked(tasks, count, seeds, report, forked) for count in (methods // 2, methods))
    found = [*small.values(), *whole.values()]
    for step, row in whole.items():
        ratio = {"what": f"{step}: x half of the runs", "times": row["processor"] / max(small[step]["processor"], 1e-9)}
        counts = {name: f"{name}_times" for name in ("opened", "looks") if small[step].get(name)}
        found.append({**ratio, **{key: row[name] / small[step][name] for name, key in counts.items()}})
        report(line(found[-1]))
    return [*found, {"what": "runs that are done", "count": tasks * methods * seeds}]


def _walked(
    tasks: int, methods: int, seeds: int, report: Callable[[str], None], forked: bool
) -> dict[str, dict[str, Any]]:
    """Plan, run half, start again, start once more, read; the times, files and looks of each."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, _counted_reads() as opened:
        root, jobs = Path(folder), []
        size = f"{tasks} tasks x {methods} methods x {seeds} seeds"
        found["plan"] = _timed(f"plan {size}", lambda: jobs.extend(planned(root, tasks, methods, seeds)), report)
        half = jobs[: len(jobs) // 2]
        steps = {"run the first half": half, "started again, run the rest": jobs, "started again, nothing to do": jobs}
        for what, part in steps.items():
            _without_index(root, opened)
            found[what] = _timed_run(what, part, root, report, opened, forked)
        time.sleep(2.5)  # younger files are not indexed
        _without_index(root, opened)
        for what in ("read the results", "read them again"):
            opened.clear()
            found[what] = _timed(f"{what} of {len(jobs)} runs", lambda: files.read_results(root), report, opened)
        lacking = sum(not job.done() for job in jobs)
    if lacking:
        raise SystemExit(f"{lacking} of {len(jobs)} runs have no result")
    return found


def _without_index(root: Path, opened: list[Any]) -> None:
    """What was read of files of before hangs on the time: every step opens all that it reads."""
    (root / files.INDEX).unlink(missing_ok=True)
    opened.clear()


def _timed_run(
    what: str,
    jobs: Sequence[DrawnRun],
    root: Path,
    report: Callable[[str], None],
    opened: Sequence[Any],
    forked: bool,
) -> dict[str, Any]:
    with _Forked() if forked else _AtOnce() as engine:
        known = (root / files.RUNS).is_dir()

        def run() -> None:
            expected = Estimate(str(root), [job for job in jobs if not job.done()]) if known else None
            run_jobs(jobs, engine, expected=expected, quiet=True)

        row = _timed(f"{what} ({len(jobs)} runs)", run, report, opened)
    return {**row, "looks": engine.looks}


# Showing ------------------------------------------------------------------------------------------------------------


def line(row: dict[str, Any]) -> str:
    """A row in words."""
    words = {"seconds": "{:.1f} s", "processor": "{:.1f} s of this processor", "opened": "{:,} files opened"}
    words |= {"looks": "{} looks", "bytes": "{:,.0f}", "mib": "{:,.0f}", "count": "{:,}", "times": "{:.2f} x"}
    words |= {"opened_times": "{:.2f} x the files", "looks_times": "{:.2f} x the looks"}
    return f"{row['what']}: " + ", ".join(words[key].format(value) for key, value in row.items() if key in words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=0, help="result files to draw")
    parser.add_argument(
        "--plan",
        type=int,
        nargs=3,
        metavar=("TASKS", "METHODS", "SEEDS"),
        help="a plan to walk through, and half of it",
    )
    parser.add_argument("--forked", action="store_true", help="work it off in processes, as a benchmark does")
    parser.add_argument("--json", help="write the figures there")
    args = parser.parse_args()
    if not args.files and not args.plan:
        parser.error("give --files, or --plan, or both")
    rows = read_files(args.files, _say) if args.files else []
    rows += walk_plan(*args.plan, _say, args.forked) if args.plan else []
    for row in rows:
        if not {"seconds", "times"} & row.keys():
            _say(line(row))
    if args.json:
        write_json(args.json, {"figures": rows})


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
