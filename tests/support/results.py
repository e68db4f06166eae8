"""Result files without runs."""

from pathlib import Path
from typing import Any

from vpeft.apis.results.files import RUNS, digest, write_result
from vpeft.core.datasets.tasks import get_task
from vpeft.core.families.metrics import ppt


def result(method: str, task: str, seed: int, value: float, parameters: int = 1000, **changes) -> dict[str, Any]:
    """A result as a run writes it; ``value`` in [0, 1]."""
    setting = digest([method, task, changes.get("variant", {}), changes.pop("config_text", "")])
    return {
        "status": "ok",
        "hash": digest([setting, seed]),
        "setting": setting,
        "config": f"{method.lower()}_nano_vit.py",
        "method": method,
        "backbone": "nano_vit",
        "task": task,
        "suite": "mini",
        "group": get_task(task, "mini").group,
        "variant": {},
        "seed": seed,
        "metrics": {"accuracy/top1": 100 * value},
        "main_metric": {"name": "accuracy/top1", "value": value},
        "ppt": ppt(value, parameters),
        "parameters": {"trainable_without_head": parameters, "head": 10, "total": parameters + 10, "frozen": 5},
        "protocol": {"train_split": "train800val200", "eval_split": "test", "test_looks": 1, "faults": []},
        "tuning": None,
        "cost": {"step_seconds": 0.1, "train_seconds": 4.0, "saved_bytes": 100 * seed, "adapter_bytes": 7},
        "methods": [{"type": method}],
        "host": "mmpretrain.VisionTransformer",
        "data_variant": "embedded",
        "git": None,
        "versions": {},
        "full_config": "",
        **changes,
    }


def store(root: Path, *results: dict[str, Any]) -> list[Path]:
    """Write results where a benchmark would."""
    paths = []
    for r in results:
        name = f"{Path(r['config']).stem}/{r['task']}/seed{r['seed']}-{r['hash'][:12]}.json"
        paths.append(root / RUNS / name)
        write_result(paths[-1], r)
    return paths
