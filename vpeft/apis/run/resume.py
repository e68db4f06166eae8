"""Going on with a run: from which checkpoint, and with which settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader

from vpeft.apis.config.origin import RESUME, is_given, is_inside, origin_of, set_by_command
from vpeft.apis.config.text import as_text, content, settings_of
from vpeft.core.adaptation.peft_backbone import find_peft
from vpeft.core.adaptation.storing.checkpoint import check_resumable
from vpeft.core.trained.folder import checkpoints
from vpeft.errors import UserError

#: Settings that a resumed run takes from its checkpoint, whatever the config says.
KEPT = ("optim_wrapper.optimizer", "optim_wrapper.paramwise_cfg", "param_scheduler", "randomness.seed")
#: Settings that make it another run.
OTHER_RUN = ("suite", "task", "optim_wrapper.optimizer.type", "train_cfg.by_epoch", "train_cfg.type")


def go_on(cfg: Config, work_dir: str, checkpoint: str | None = None) -> None:
    """Let a config go on, in place, from a checkpoint, and say which of its settings are not those of the run.

    Args:
        cfg: The config.
        work_dir: The run's folder: its newest readable checkpoint is taken, wherever the folder has stood before. Where
            there is none the run starts anew, which is said.
        checkpoint: This file instead.

    Raises:
        UserError: The file is missing or broken, all of the folder's are, or they are of another task, method or number
            of classes.
    """
    if checkpoint is not None:
        if not Path(checkpoint).is_file():
            raise UserError(f"--resume {checkpoint}: no such checkpoint.")
        found = Path(checkpoint), _load(Path(checkpoint))
    else:
        found = _newest(_place(cfg, work_dir))
    if found is None:
        print_log(f"--resume: {work_dir} holds no checkpoint yet: the run starts anew.", "current", level=30)
        set_by_command(cfg, {"resume": False}, RESUME)
        return
    path, loaded = found
    name_differences(loaded, cfg, str(path))
    if is_given(cfg, "load_from") and cfg.load_from != str(path):
        said = f"--resume: load_from={cfg.load_from!r} was for the start: the run goes on from {path}."
        print_log(said, "current", level=30)
    set_by_command(cfg, {"resume": True}, RESUME)
    cfg.load_from = str(path)
    origin_of(cfg).record(RESUME, cfg, ["load_from"])


def _place(cfg: Config, work_dir: str) -> Path:
    """Where ``CheckpointHook`` writes."""
    out = ((cfg.get("default_hooks") or {}).get("checkpoint") or {}).get("out_dir")
    return Path(work_dir) if out is None else Path(out) / Path(work_dir).name


def _load(path: Path) -> dict[str, Any]:
    loaded = CheckpointLoader.load_checkpoint(str(path), map_location="cpu")
    check_resumable(loaded if isinstance(loaded, Mapping) else {}, str(path))
    return loaded


def _newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The last checkpoint that can be read, with what it holds."""
    faults = []
    for path in checkpoints(folder):
        try:
            loaded = _load(path)
        except UserError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            print_log(f"--resume goes on from {path.name}, since {fault}", "current", level=30)
        return path, loaded
    if faults:
        raise UserError(f"{folder}: no checkpoint can be read: {faults[0]}")
    return None


def name_differences(loaded: Mapping[str, Any], cfg: Config, where: str) -> None:
    """Name, a line each, the settings in which a config differs from those that a checkpoint was trained with.

    Raises:
        UserError: Task, method or number of classes differ.
    """
    own = loaded["meta"].get("cfg")
    old = settings_of(own) if isinstance(own, str) else {}
    if not old:
        return
    new = as_text(cfg._cfg_dict.to_dict())
    if (mine := find_peft(new)[1].get("method")) != (its := find_peft(old)[1].get("method")):
        raise UserError(f"{where} was trained with {its}, this config has {mine}: use its own config to resume it.")
    before, now = content(old), content(new)
    kept = set()
    for key in sorted(before.keys() | now.keys()):
        its, mine = before.get(key), now.get(key)
        if its == mine:
            continue
        if key in OTHER_RUN or key.rpartition(".")[2] == "num_classes":
            raise UserError(
                f"{where} is of another run: its {key} is {its!r}, this config's {mine!r}: resume with its own, or "
                "train anew in another --work-dir."
            )
        section = next((one for one in KEPT if is_inside(key, one)), None)
        if section is not None:
            kept.add(section)
            line = f"{key}={mine!r} is not followed: the run goes on with its own {its!r}"
        else:
            origin_of(cfg).changed.append(key)
            line = f"{key}={mine!r} is followed from here on: before it was {its!r}"
        print_log(f"--resume: {line}", "current", level=30)
    for section in kept:
        _put_back(cfg, section, old)
    origin_of(cfg).record(RESUME, cfg)


def _put_back(cfg: Config, section: str, old: Mapping[str, Any]) -> None:
    """Let the config say what is so: a section as the checkpoint has it."""
    *path, last = section.split(".")
    mine, its = cfg._cfg_dict, old
    for name in path:
        mine, its = mine[name], its.get(name) or {}
    if last in its:
        mine[last] = ConfigDict(x=its[last])["x"]
    else:
        mine.pop(last, None)
