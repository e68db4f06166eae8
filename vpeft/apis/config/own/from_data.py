"""From a path to a config: recognised, looked at, divided, listed, composed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine import Config

from vpeft.apis.config.origin import is_given, set_by_command
from vpeft.apis.config.own.bases import DEFAULT
from vpeft.apis.config.own.compose import OwnOptions, chosen_network, own_config
from vpeft.apis.config.own.defaults import SMALL, STORE
from vpeft.core.adaptation.peft_backbone import find_peft, methods_of
from vpeft.core.datasets.own.found import OwnData
from vpeft.core.datasets.own.inspect import OwnLook, look_at_data
from vpeft.core.datasets.own.lists import write_lists
from vpeft.core.datasets.own.recognise import recognise_data
from vpeft.core.datasets.own.split import split_parts
from vpeft.core.store import has_room

#: Folder of the lists in a run's folder.
LISTS = "lists"
VAL_SHARE, TEST_SHARE = 0.2, 0.0


@dataclass(frozen=True)
class OwnRun:
    """What is to be trained on a user's own data.

    Attributes:
        cfg: The config.
        seen: The data, looked at and divided.
        lists: The lists of the parts.
        work_dir: Where everything is written.
        model: The model as the user named it, None where the default is taken.
    """

    cfg: Config
    seen: OwnLook
    lists: Mapping[str, Path]
    work_dir: str
    model: str | None = None


def divided(
    found: OwnData,
    val_share: float = VAL_SHARE,
    test_share: float = TEST_SHARE,
    seed: int = 0,
    quiet: bool = True,
) -> OwnLook:
    """Data that were recognised, looked at and divided.

    Args:
        found: The data (:func:`~vpeft.core.datasets.own.recognise.recognise`).
        val_share: Share that is validated on, where the data have no such part.
        test_share: Share that is tested on, where the data have no such part.
        seed: Of the division.
        quiet: Show no bar.

    Raises:
        UserError: The data are wrong; one line says where.
    """
    seen = look_at_data(found, quiet)
    return replace(seen, data=split_parts(seen.data, seen.groups, val_share, test_share, seed))


def run_on_data(
    path: str | os.PathLike[str],
    options: OwnOptions | None = None,
    family: str | None = None,
    val_share: float = VAL_SHARE,
    test_share: float = TEST_SHARE,
    work_dir: str | None = None,
    quiet: bool = True,
) -> OwnRun:
    """A run on a user's own data; nothing is copied, lists are written into its folder.

    Args:
        path: The data.
        options: Of model, method and training.
        family: Of the task, where the data can be read as several.
        val_share: As of :func:`divided`.
        test_share: See there.
        work_dir: Where everything is written; ``work_dirs/<data>_<method>_<model>`` unless given.
        quiet: See there.

    Raises:
        UserError: Data, model, method or an option are wrong; one line says which.
    """
    options = options or OwnOptions()
    options.check()
    found = recognise_data(path, family)
    chosen = chosen_network(found.family, options)  # before the files are looked at, which may take minutes
    seen = divided(found, val_share, test_share, options.seed, quiet)
    name = run_name(Path(path), found.family, options)
    work_dir = work_dir or options.options.get("work_dir") or os.path.join("work_dirs", name)
    lists = write_lists(seen.data, Path(work_dir).absolute() / LISTS)
    cfg = own_config(seen, lists, options, name, chosen)
    is_small = found.family != "video" and len(seen.data.samples) <= SMALL  # clips are not kept
    if is_small and has_room(work_dir, STORE) and not is_given(cfg, "data_store"):
        set_by_command(cfg, {"data_store": {"limit": STORE, "folder": None}}, "few images")
    return OwnRun(cfg, seen, lists, str(work_dir), options.model)


def run_name(path: Path, family: str, options: OwnOptions) -> str:
    """What a run is called: data, method, model, and a seed that is not the usual one."""
    model = (options.model or DEFAULT[family]).rstrip("/").rpartition("/")[2]
    path = path.resolve()
    data = f"{path.parent.name}-{path.stem}" if path.is_file() else path.name
    parts = (data, options.method, model, *([f"seed{options.seed}"] if options.seed else []))
    return re.sub(r"[^\w.-]+", "-", "_".join(parts)).strip("-.") or "own"


def model_line(run: OwnRun) -> str:
    """What is trained and how, in a line or two."""
    cfg, backbone = run.cfg, find_peft(run.cfg)[1]
    method = "+".join(one["type"] for one in methods_of(cfg))
    name = backbone["of"] if "/" in str(backbone["of"]) else (run.model or DEFAULT[run.seen.data.family])
    rate, loop, batch = cfg.optim_wrapper.optimizer.lr, cfg.train_cfg, cfg.train_dataloader.batch_size
    line = f"{method} on {name}: {loop.max_epochs} epochs, batches of {batch}, learning rate {rate:g}"
    if run.model is None:
        line += (
            f"\nno --model is named: {name} is shipped, tiny, and there to try things out; for photographs take a "
            "network such as --model timm/vit_base_patch14_dinov2 --weights FILE"
        )
    return f"{line}\nall is written to {run.work_dir}"
