"""``vpeft.load``: a run, adapter file, checkpoint or merged file that explains itself, opened to predict."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine import Config, print_log
from mmengine.device import get_device

from vpeft.apis.adapters import load_adapter
from vpeft.apis.predict.predictor import Predictor
from vpeft.core.adaptation.base_weights import RANDOM
from vpeft.core.adaptation.peft_backbone import CLIPS, is_network, peft_places, plain_settings
from vpeft.core.backbones.load import load_backbone
from vpeft.core.models.network_classifier import NetworkClassifier
from vpeft.core.trained.folder import ADAPTER, BEST_ADAPTER, checkpoints
from vpeft.core.trained.load import load_trained, stored_metadata
from vpeft.core.trained.merged_file import load_merged, merged_metadata
from vpeft.core.trained.record import network_config, record_config, run_record
from vpeft.core.trained.run import open_run, quiet
from vpeft.errors import UserError, one_line


def load(
    source: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
) -> Predictor:
    """Open what was trained, without its config: ``vpeft.load("work_dirs/pets").predict("cat.jpg")``.

    No code is run: the file says in JSON which registered parts its model is built of.

    Args:
        source: A run's folder (its best adapter where there is one, or else its last), or an adapter file, a checkpoint
            of a run, or a merged file.
        weights: The file of the base's weights, where it no longer stands at the path that the run has noted.
        device: Where to compute; an accelerator where there is one.

    Raises:
        UserError: There is no run, it is broken, its base is not to be found or another one.
    """
    source = Path(source)
    file = weights_of(source) if source.is_dir() else source
    merged = merged_metadata(file) if file.is_file() else None
    said = merged or stored_metadata(str(file))
    if "network" in (said.get("run") or ()):
        return _network(file, said, weights, device)
    cfg, record = _config(source, file, said)
    if weights is not None:
        _use_weights(cfg, str(weights), str(file), merged is not None)
    if merged is None:
        _need_base(cfg, str(file), source.is_dir() or weights is not None)
    try:
        with quiet():
            model = load_merged(cfg, file) if merged else load_trained(cfg, str(file))
    except (UserError, MemoryError, OSError):
        raise
    except Exception as error:  # of the packages, where a file describes no model
        said = f"{type(error).__name__}: {one_line(error, 200)}"
        raise UserError(f"{file}: the model that it describes cannot be built ({said}).") from error
    model = model.to(device or get_device())
    return Predictor(
        file,
        model,
        tuple(said.get("classes") or ()),
        record.get("family"),
        record.get("preprocessing"),
        cfg,
    )


def _network(
    file: Path, said: Mapping[str, Any], weights: str | os.PathLike[str] | None, device: str | torch.device | None
) -> Predictor:
    """A network of ``load_backbone`` that was adapted in Python."""
    record = said["run"]
    cfg = network_config(record, str(file))
    base = (said.get("base") or {}).get("file")
    if weights is None and base is not None and not os.path.exists(os.path.expanduser(base)):
        raise UserError(
            f"{file} was trained on the base {base}, and no such file is there, seen from {Path.cwd()}: name it in its "
            "new place by weights=FILE (--weights)."
        )
    with quiet():
        network = load_backbone(
            record["network"]["of"], base if weights is None else weights, **record["network"]["options"]
        )
        network = load_adapter(network, file)
    model = NetworkClassifier(network, cfg.data_preprocessor).eval().to(device or get_device())
    names = tuple(said.get("classes") or ())
    return Predictor(file, model, names, record["family"], record["preprocessing"], cfg)


def weights_of(folder: Path) -> Path:
    """The file of a run's folder that predicts: its best adapter, or else the last, or else the last checkpoint.

    Raises:
        UserError: It has none.
    """
    for name in (BEST_ADAPTER, ADAPTER):
        if (folder / name).is_file():
            return folder / name
    if saved := checkpoints(folder):
        return saved[0]
    raise UserError(f"{folder} holds neither {ADAPTER} nor a checkpoint: it is no run, or one that has not ended.")


def _config(source: Path, file: Path, said: Mapping[str, Any]) -> tuple[Config, Mapping[str, Any]]:
    """The config that a file says, or else that of the run's folder around it."""
    record = said.get("run")
    if record is not None and record.get("config", {}) is not None:
        try:
            return record_config(record, str(file)), record
        except UserError as error:
            if not source.is_dir():
                raise
            print_log(f"{error} The config in {source} is taken instead.", "current", level=30)
    if not source.is_dir():
        raise UserError(
            f"{file} does not say of which run it is: give the run's folder, which has the config, or attach and load "
            "it by hand (vpeft.load_adapter)."
        )
    cfg = open_run(source).cfg
    return cfg, run_record(cfg) or {}


def _use_weights(cfg: Config, weights: str, where: str, merged: bool) -> None:
    """Let a config's base come from another file."""
    places = peft_places(cfg)
    if merged or len(places) != 1:
        what = "a merged file holds its base" if merged else f"its run adapts {len(places)} backbones"
        raise UserError(f"weights={weights}: {where}: {what}: leave weights out.")
    settings = next(iter(places.values()))
    if settings.get("base") == RANDOM:
        raise UserError(f"weights={weights}: {where} was trained on a random base, which it holds: leave weights out.")
    if not os.path.exists(os.path.expanduser(weights)) and "://" not in weights:
        raise UserError(f"weights={weights}: no such file, seen from {Path.cwd()}.")
    plain = plain_settings(settings)
    if is_network(plain):
        settings["weights"] = weights
    elif plain["type"] == CLIPS:
        settings["image"]["init_cfg"] = {"type": "Pretrained", "checkpoint": weights}
    else:
        settings["init_cfg"] = {"type": "Pretrained", "checkpoint": weights}


def _need_base(cfg: Config, where: str, follow: bool) -> None:
    """Refuse a base whose file is away, and addresses, which a file alone may not make anybody follow.

    Args:
        cfg: The config.
        where: The file.
        follow: Whether addresses are followed: those of one's own run, or that were given by hand.
    """
    for file in _files_of(cfg.model):
        if "://" in file and not file.startswith("vpeft://") and not follow:
            raise UserError(f"{where} was trained on the base at {file}: fetch it, and give weights=FILE (--weights).")
        if "://" not in file and not os.path.exists(os.path.expanduser(file)):
            raise UserError(
                f"{where} was trained on the base {file}, and no such file is there, seen from {Path.cwd()}: name it "
                "in its new place by weights=FILE (--weights)."
            )


def _files_of(node: Any) -> Iterator[str]:
    """The files of weights that a config names, of whatever depth."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in ("checkpoint", "weights", "pretrained") and isinstance(value, str):
                yield value
            yield from _files_of(value)
    elif isinstance(node, (list, tuple)):
        for one in node:
            yield from _files_of(one)
