"""Training the zoo: each adapter is a run of the embedded benchmark, and its file and index come of its result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vpeft.apis.benchmark.run_job import RunJob
from vpeft.apis.config.names import configs_folder
from vpeft.apis.zoo.zoo import INDEX
from vpeft.core.backbones.nano import sha256
from vpeft.core.datasets.tasks import get_task
from vpeft.errors import UserError
from vpeft.files import read_json, write_json
from vpeft.registry import nearest

SUITE, SEED = "mini", 0
#: Method, backbone and task of every adapter: tasks of one base by one method, other methods, the other base.
ZOO = (
    ("lora", "nano_vit", "digits"),
    ("lora", "nano_vit", "photos"),
    ("lora", "nano_vit", "textures"),
    ("lora", "nano_vit", "tissue"),
    ("lora", "nano_vit", "sprite_count"),
    ("adaptformer", "nano_vit", "digits"),
    ("bitfit", "nano_vit", "tissue"),
    ("vptdeep", "nano_vit", "textures"),
    ("lora", "nano_swin", "digits"),
)
NAMES = tuple("_".join(one) for one in ZOO)


def make_zoo(out: str | os.PathLike[str], runs: str | os.PathLike[str], names: Sequence[str] = ()) -> Iterator[str]:
    """Train adapters of the zoo, test each once, and write them and their index; what is done already is taken.

    Args:
        out: Folder of the adapter files and the index.
        runs: Folder of the runs, as of a benchmark's results.
        names: Of the adapters; all unless given.

    Returns:
        A line for each adapter as it is there.

    Raises:
        UserError: There is no such adapter, or a run fails.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise UserError(f"no adapter {unknown[0]!r} in the zoo: {nearest(unknown[0], NAMES)}")
    listed = Path(out) / INDEX  # what is said of those that are not made now stays
    index: dict[str, dict[str, Any]] = read_json(listed, "the zoo's index") if listed.is_file() else {}
    for method, backbone, task in (one for one, name in zip(ZOO, NAMES, strict=True) if name in (names or NAMES)):
        config = f"{SUITE}/{method}_{backbone}.py"
        path = str((configs_folder() / config).absolute())
        job = RunJob(str(Path(runs).absolute()), path, method, backbone, task, SUITE, SEED)
        job.run()
        result, name = job.result(), f"{method}_{backbone}_{task}"
        Path(out).mkdir(parents=True, exist_ok=True)
        file = Path(shutil.copyfile(job.root / Path(result["checkpoint"]), Path(out) / f"{name}.safetensors"))
        index[name] = {
            "config": config,
            "task": task,
            "seed": SEED,
            "methods": result["methods"],
            "trained": result["parameters"]["trainable_without_head"],
            "head": result["parameters"]["head"],
            "accuracy": round(result["main_metric"]["value"], 6),
            "images": get_task(task, SUITE).test_size,
            "commit": result["git"],
            "bytes": file.stat().st_size,
            "sha256": sha256(file),
        }
        write_json(listed, {one: index[one] for one in NAMES if one in index})
        yield f"{name}: {100 * index[name]['accuracy']:.1f} % of {index[name]['images']} test images, {file}"
