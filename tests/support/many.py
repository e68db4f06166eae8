"""Many drawn result files, written without the checks that a run's own goes through; and counted work."""

import itertools
import json
import random
import sys
from pathlib import Path

from support.results import result
from vpeft.apis.results.files import RUNS, checksum
from vpeft.core.datasets.tasks import SUITES


def store_many(root: Path, rows: int, tasks: int = 19, seeds: int = 3, full_config: str = "") -> list[Path]:
    """Results of ``rows`` ranks of LoRA on VTAB-1k's first tasks."""
    drawn, paths = random.Random(0), []
    names = list(SUITES["vtab"].values())[:tasks]
    for rank, task, seed in itertools.product(range(1, rows + 1), names, range(seeds)):
        one = result("LoRA", "digits", seed, drawn.random(), config_text=f"{rank} {task.name}")
        one |= {"format": 1, "config": f"lora{rank}_vit.py", "backbone": "vit", "suite": "vtab", "group": task.group}
        one |= {"task": task.name, "variant": {"model.backbone.method.rank": rank}, "written": "2026-01-01"}
        one |= {"full_config": full_config and f"{full_config}\nrank = {rank}\ntask = {task.name!r}\nseed = {seed}\n"}
        path = root / RUNS / f"lora{rank}_vit" / task.name / f"seed{seed}-{one['hash'][:12]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one | {"checksum": checksum(one)}, indent=2) + "\n")
        paths.append(path)
    return paths


def calls(deed, *arguments) -> int:
    """How many calls of functions a deed makes, generators' steps included."""
    count = 0

    def look(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(look)
    try:
        deed(*arguments)
    finally:
        sys.setprofile(None)
    return count
