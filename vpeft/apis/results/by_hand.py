"""Results of runs that were trained and tested by hand, in the form of a benchmark's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine import Config, ConfigDict
from mmengine.runner.checkpoint import CheckpointLoader

from vpeft.apis.config.protocol import one_look, protocol
from vpeft.apis.config.recipes import recipe_label
from vpeft.apis.config.setting import NOT_CONTENT, WATCHERS, setting_hash
from vpeft.apis.config.text import content, settings_of
from vpeft.apis.results.files import RUNS, digest, write_result
from vpeft.core.datasets.identity import overlap_faults
from vpeft.core.datasets.tasks import get_task
from vpeft.core.trained.folder import RESULT, read_origin
from vpeft.errors import one_line
from vpeft.files import write_json
from vpeft.registry import DATASETS


def write_by_hand(
    cfg: Config, result: Mapping[str, Any], work_dir: Path, results: Path | None = None, tested: Any = None
) -> tuple[dict[str, Any], str | None]:
    """Write ``result.json`` of a tested run, sealed as a benchmark's results are, where leaderboards can take it.

    Args:
        cfg: The config that it was tested with.
        result: What :func:`~vpeft.core.trained.result.run_result` says of it.
        work_dir: Where it is written.
        results: A folder of results to put it into as well.
        tested: The data set that it was tested on; None leaves open whether training read the same images.

    Returns:
        The result, and why it cannot stand in a leaderboard, None where it can.
    """
    lacks = [name for name in ("data_variant", "main_metric", "seed") if result[name] is None]
    if not lacks and result["main_metric"]["value"] is None:
        lacks = ["finite main_metric"]
    if lacks:
        write_json(work_dir / RESULT, dict(result))
        return dict(result), f"it names no {' and no '.join(lacks)}"
    sealed = {**result, **_names(cfg, result, tested)}
    write_result(work_dir / RESULT, sealed)
    if results is not None:
        name = f"seed{sealed['seed']}-{sealed['hash'][:12]}.json"
        write_result(results / RUNS / Path(sealed["config"]).stem / sealed["task"] / name, sealed)
    return sealed, "; ".join(sealed["protocol"]["faults"]) or None


def _names(cfg: Config, result: Mapping[str, Any], tested: Any) -> dict[str, Any]:
    checkpoint = Path(result["checkpoint"])
    trained, options = _training(checkpoint)
    looked = protocol(cfg if trained is None else Config(trained))
    looked["faults"] += _departures(cfg, trained) + _shared(cfg if trained is None else trained, tested)
    if changed := (read_origin(checkpoint.parent) or {}).get("changed"):
        looked["faults"].append(f"settings were changed while it was trained: {', '.join(map(str, changed[:5]))}")
    seed = result["seed"] if trained is None else (trained.get("randomness") or {}).get("seed", result["seed"])
    # Of the values alone: options of a validation that a benchmark would leave out are of no account here.
    setting = setting_hash(one_look(Config(cfg._cfg_dict.to_dict())))
    backbone = recipe_label(cfg.filename or "by_hand")
    task = result["task"] if result["suite"] else backbone
    size = result["checkpoint_bytes"]
    return {
        "status": "ok",
        "hash": digest([setting, seed]),
        "setting": setting,
        "method": "+".join(method["type"] for method in result["methods"]) or "plain",
        "backbone": backbone,
        "task": task,
        "group": get_task(task, result["suite"]).group if result["suite"] else None,
        "variant": {key: value for key, value in options.items() if _makes_a_row(key)},
        "seed": seed,
        "tuning": cfg.get("tuned") and cfg.tuned.to_dict(),
        "protocol": looked,
        "cost": {"step_seconds": None, "adapter_bytes": size},
    }


def _training(checkpoint: Path) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The settings that a file was trained with, None where they are not known; and the user's own among them."""
    record = read_origin(checkpoint.parent) or {}
    options = record.get("options") or {}
    if checkpoint.suffix == ".pth":
        text = CheckpointLoader.load_checkpoint(str(checkpoint), "cpu", logger="silent").get("meta", {}).get("cfg")
        return (settings_of(text) or None) if isinstance(text, str) else None, options
    config = checkpoint.parent / str(record.get("config"))
    return settings_of(config.read_text()) if config.is_file() else None, options


def _departures(cfg: Config, trained: Mapping[str, Any] | None) -> list[str]:
    """Faults of a result whose test says nothing of how the tested file was trained."""
    if trained is None:
        return ["how it was trained is not recorded beside the tested file"]
    own, tested = content(trained), content(cfg._cfg_dict.to_dict())
    keys = sorted(key for key in own.keys() | tested.keys() if own.get(key) != tested.get(key))
    keys = [key for key in keys if key != "randomness.seed" and not key.startswith(("custom_hooks", "val_"))]
    return [f"trained with other settings than it is tested with: {', '.join(keys[:5])}"] if keys else []


def _shared(trained: Mapping[str, Any], tested: Any) -> list[str]:
    """Faults where training read images of the test."""
    if tested is None or not trained.get("train_dataloader"):
        return []
    try:
        data = DATASETS.build(ConfigDict(trained["train_dataloader"]["dataset"]))
    except Exception as error:  # whatever a data set of anyone's raises: the test itself is sound
        return [f"whether it was trained on images of the test cannot be told: {one_line(error)}"]
    return overlap_faults({"training": data, "test": tested})


def _makes_a_row(key: str) -> bool:
    watched = tuple(f"default_hooks.{name}" for name in WATCHERS)
    return key.split(".")[0] not in {*NOT_CONTENT, "load_from", "task", "suite"} and not key.startswith(
        (*watched, "randomness.seed")
    )
