"""Trained runs, opened from their folders."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, init_default_scope
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from vpeft.core.adaptation.peft_backbone import find_peft, methods_of
from vpeft.core.adaptation.storing.fit import check_task, stated_classes
from vpeft.core.trained.folder import ADAPTER, RESULT, checkpoints
from vpeft.core.trained.load import load_trained, stored_metadata
from vpeft.errors import UserError
from vpeft.files import read_config, read_json


@contextmanager
def quiet() -> Iterator[None]:
    """Within the context mmengine's logger leaves out what is no warning, such as the list of initialised weights."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


@dataclass
class Run:
    """A run: its config, what it has learned, and the data that it is tested on.

    Attributes:
        folder: The run's folder (``--work-dir`` of ``tools/train.py``).
        cfg: Its config, as the run has written it.
        checkpoint: ``adapter.safetensors``, or its last ``epoch_*.pth`` / ``iter_*.pth`` where there is none.
        result: ``result.json``; empty where the run was not tested.
        label: Short name for legends, unlike that of any run opened beside it (:func:`open_runs`).
    """

    folder: Path
    cfg: Config
    checkpoint: Path
    result: dict[str, Any] = field(default_factory=dict, repr=False)
    label: str = ""

    def __post_init__(self) -> None:
        self.label = self.label or self.method

    @property
    def method(self) -> str:
        """Names of its methods, joined by ``+``."""
        return "+".join(method["type"].removeprefix("vpeft.") for method in methods_of(self.cfg)) or "plain"

    @property
    def host(self) -> str:
        """Class name of its backbone."""
        return find_peft(self.cfg)[1].get("of", "")

    @property
    def task(self) -> str:
        """Its task, or its config's name where it has no task to choose."""
        return self.cfg.get("task") or Path(self.cfg.filename).stem

    @property
    def test_data(self) -> dict[str, Any]:
        """What its test images are: the settings of the test set without those of reading them."""
        data = self._test_dataset()
        return {k: v for k, v in sorted(data.items()) if k not in ("pipeline", "metainfo", "test_mode", "lazy_init")}

    def _test_dataset(self) -> dict[str, Any]:
        if not self.cfg.get("test_dataloader"):
            raise UserError(f"{self.folder}: its config has no test_dataloader: there are no test images to look at.")
        return self.cfg.test_dataloader.dataset.to_dict()

    def digest(self) -> str:
        """Names what it computes: SHA-256 of its learned tensors, model, preprocessing and test data."""
        parts = [self.cfg.model.to_dict(), self.cfg.get("data_preprocessor"), self._test_dataset()]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
        digest.update(self.checkpoint.read_bytes())
        return digest.hexdigest()

    def model(self, device: str = "cpu") -> nn.Module:
        """The trained model in eval mode.

        Raises:
            UserError: The file of weights is broken or belongs to another base.
        """
        with quiet():
            return load_trained(self.cfg, str(self.checkpoint)).to(device)

    def dataset(self) -> Dataset:
        """Its test set, read as in testing.

        Raises:
            UserError: Its classes are others than those that the run has learned, or its files are missing or broken.
        """
        init_default_scope(self.cfg.get("default_scope", "mmengine"))
        data = DATASETS.build(self._test_dataset())
        check_task(self._said, str(self.checkpoint), classes=stated_classes(data))
        return data

    @functools.cached_property
    def _said(self) -> dict[str, Any]:
        return stored_metadata(str(self.checkpoint))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that it has learned, as its file notes them; empty where it does not."""
        return tuple(map(str, self._said.get("classes") or ()))

    def batches(self, indices: Sequence[int] | None = None, size: int = 64) -> Iterator[dict[str, list[Any]]]:
        """Batches of test samples, in order, as ``model.test_step`` takes them.

        Args:
            indices: Places in the test set; all of them when None.
            size: Samples in a batch.
        """
        data = self.dataset()
        yield from DataLoader(data if indices is None else Subset(data, list(indices)), size, collate_fn=pseudo_collate)

    def outputs(self, model: nn.Module, indices: Sequence[int] | None = None, size: int = 64) -> Iterator[Any]:
        """What the model says of test samples, one after another: data samples of the task's own package."""
        with torch.no_grad():
            for batch in self.batches(indices, size):
                yield from model.test_step(batch)


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Open a run's folder.

    Args:
        folder: What ``tools/train.py`` has written: the config, and ``adapter.safetensors`` or checkpoints.

    Raises:
        UserError: The folder is missing, or holds no config or no weights.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give a run's --work-dir, such as work_dirs/lora_nano_vit_digits.")
    path = folder / RESULT
    result = read_json(path, "result", broken="test the run again with tools/test.py") if path.exists() else {}
    if not isinstance(result, dict):
        raise UserError(f"{path} is no result: test the run again with tools/test.py.")
    cfg = read_config(_config_file(folder, result), "config of a run")
    if "model" not in cfg:
        raise UserError(f"{cfg.filename} has no `model`: {folder} is no run.")
    return Run(folder, cfg, _weights(folder), result)


def _config_file(folder: Path, result: Mapping[str, Any]) -> Path:
    files = sorted(folder.glob("*.py"))
    named = [file for file in files if file.name == result.get("config")]
    if len(named or files) != 1:
        names = ", ".join(file.name for file in files)
        found = f"several configs ({names})" if files else "no config"
        raise UserError(f"{folder} is no run: it holds {found}. Give the folder that tools/train.py has written.")
    return (named or files)[0]


def _weights(folder: Path) -> Path:
    if (folder / ADAPTER).is_file():
        return folder / ADAPTER
    saved = checkpoints(folder)
    if not saved:
        raise UserError(f"{folder} holds neither {ADAPTER} nor a checkpoint: the run has not come to its end.")
    return saved[0]


def open_runs(folders: Sequence[str | os.PathLike[str]], same_data: bool = True) -> list[Run]:
    """Open runs that are to be compared; each gets a label of its own.

    Args:
        folders: The runs' folders.
        same_data: Refuse runs of different test images.

    Raises:
        UserError: A folder is no run or comes twice, or the runs are not tested on the same images.
    """
    if not folders:
        raise UserError("no run was given: name one folder or more, such as work_dirs/lora_nano_vit_digits.")
    runs = [open_run(folder) for folder in folders]
    places = [run.folder.resolve() for run in runs]
    if double := next((place for place in places if places.count(place) > 1), None):
        raise UserError(f"{double} was given twice.")
    for run in runs[1:] if same_data else []:
        first, other = runs[0].test_data, run.test_data
        if first != other:
            key = next(k for k in sorted({*first, *other}) if first.get(k) != other.get(k))
            raise UserError(
                f"{runs[0].folder} and {run.folder} are tested on different data: {key} is {first.get(key)!r} and "
                f"{other.get(key)!r}. Compare runs of one data set."
            )
    label_runs(runs)
    return runs


def label_runs(runs: Sequence[Run]) -> None:
    """Label runs, in place, by the first of: method, with host, with seed, by folder; that tells them apart."""
    forms = (
        lambda run: run.method,
        lambda run: f"{run.method}, {run.host}",
        lambda run: f"{run.method}, seed {run.cfg.get('randomness', {}).get('seed')}",
        lambda run: run.folder.name,
        lambda run: str(run.folder),
    )
    labels = next(names for form in forms if len(set(names := [form(run) for run in runs])) == len(runs))
    for run, label in zip(runs, labels, strict=True):
        run.label = label


def class_names(dataset: Dataset, labels: Sequence[int]) -> list[str]:
    """Names of the classes ``0 .. max(labels)``: the data set's own, or their numbers."""
    count = int(max(labels)) + 1
    names = getattr(dataset, "metainfo", {}).get("classes") or ()
    return [str(names[i]) if i < len(names) else str(i) for i in range(count)]
