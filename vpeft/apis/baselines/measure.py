"""Baselines of a task through the protocol of its suite: chosen on its validation images, tested once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine import Config, ConfigDict
from mmengine.registry import init_default_scope
from sklearn.base import BaseEstimator, TransformerMixin

from vpeft.apis.baselines.features import CLIPS, IMAGES
from vpeft.apis.config.load import load_config
from vpeft.core.datasets.tasks import SPLITS
from vpeft.core.families.samples import label_of
from vpeft.errors import UserError
from vpeft.registry import DATASETS

#: What the classifier's strength (scikit-learn's C) is chosen from.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
CHANCE, RANDOM_HOST = "chance", "the host with random weights"


@dataclass
class TaskList:
    """The samples of a list: ``(N, C, H, W)`` uint8, or ``(N, C, T, H, W)`` of clips; and ``(N,)``."""

    images: np.ndarray
    labels: np.ndarray


def baselines(config: str, task: str | None) -> dict[str, float]:
    """Accuracy in [0, 1] of every baseline, by its name.

    All but chance are a logistic regression on standardised features, its strength chosen on the validation images, or
    by five folds where there are none; it is then trained on all and tested once.

    Args:
        config: A config of a method on the host whose tasks they are.
        task: A task of its suite, None for a config without.

    Raises:
        UserError: The config's task is none of classes: they have no baselines here.
    """
    parts = task_parts(config, task)
    final, test = parts["final"], parts["test"]
    found = {CHANCE: float((test.labels == np.bincount(final.labels).argmax()).mean())}
    functions = {**IMAGES, **(CLIPS if test.images.ndim == 5 else {})}
    for name, function in functions.items():
        found[name] = classified({use: (function(part.images), part.labels) for use, part in parts.items()})
    host = host_features(config, task, pretrained=False)
    found[RANDOM_HOST] = classified({use: (host(part.images), part.labels) for use, part in parts.items()})
    return found


def frozen_host(config: str, task: str | None) -> float:
    """Accuracy in [0, 1] of the same classifier on what the config's pretrained host gives, which stays as it is.

    Args:
        config: As of :func:`baselines`.
        task: As of :func:`baselines`.
    """
    host = host_features(config, task, pretrained=True)
    parts = task_parts(config, task)
    return classified({use: (host(part.images), part.labels) for use, part in parts.items()})


def task_parts(config: str, task: str | None) -> dict[str, TaskList]:
    """The lists ``tune``, ``val`` (where there are such), ``final`` and ``test``, through the test's pipeline."""
    cfg = load_config(config, task, {"augmentation": "none"} if task else {})
    if (cfg.get("test_dataloader") or {}).get("dataset") is None or not _of_classes(cfg):
        raise UserError(f"{config}: baselines are of classification and clips, and its task is neither.")
    init_default_scope(cfg.get("default_scope", "mmengine"))
    if suite := cfg.get("suite"):
        splits = SPLITS[suite]
        wanted = {"tune": splits.tune, "val": splits.val, "final": splits.final, "test": splits.test}
        sets = {use: {**cfg.test_dataloader.dataset, "split": split} for use, split in wanted.items()}
    else:
        pipeline = cfg.test_dataloader.dataset.pipeline
        sets = {"final": {**cfg.train_dataloader.dataset, "pipeline": pipeline}, "test": cfg.test_dataloader.dataset}
    return {use: _read(settings) for use, settings in sets.items()}


def _of_classes(cfg: Config) -> bool:
    return cfg.get("default_scope") in ("mmpretrain", "mmaction")


def _read(settings: Mapping[str, Any]) -> TaskList:
    dataset = DATASETS.build(ConfigDict(settings))
    images, labels = [], []
    for index in range(len(dataset)):
        sample = dataset[index]
        images.append(np.asarray(sample["inputs"]))
        labels.append(label_of(sample["data_samples"]))
    whole = np.stack(images)
    if whole.ndim == 6:  # views of a clip: the first
        whole = whole[:, 0]
    return TaskList(whole, np.array(labels))


def classified(parts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> float:
    """Accuracy on ``test`` of a classifier that was chosen by ``tune`` and ``val``, and trained on ``final``."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def made(strength: float) -> Any:
        # turned onto as many axes as there are samples, which changes nothing of a ridge's solution
        return make_pipeline(StandardScaler(), _Turned(), LogisticRegression(C=strength, max_iter=300))

    def look(strength: float) -> float:
        if "val" in parts:
            return made(strength).fit(*parts["tune"]).score(*parts["val"])
        return cross_val_score(made(strength), *parts["final"], cv=5).mean()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the strongest are not chosen where they matter
        best = max(STRENGTHS, key=lambda strength: (look(strength), -strength))
        return float(made(best).fit(*parts["final"]).score(*parts["test"]))


class _Turned(TransformerMixin, BaseEstimator):
    """More features than samples, turned onto the samples' own axes."""

    def fit(self, x: np.ndarray, y: Any = None) -> _Turned:
        n, d = x.shape
        self.axes_ = np.linalg.svd(x, full_matrices=False)[2] if d > n else None
        return self

    def transform(self, x: np.ndarray) -> np.ndarray:
        return x if self.axes_ is None else x @ self.axes_.T


def host_features(config: str, task: str | None, pretrained: bool) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to the pooled features of the config's host.

    Args:
        config: As of :func:`baselines`.
        task: As of :func:`baselines`.
        pretrained: With the weights that the config names, or with random ones of seed 0.
    """
    import torch

    from vpeft.core.models.build import build_model
    from vpeft.core.models.outputs import pooled_features

    cfg = load_config(config, task, {"augmentation": "none"} if task else {})
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if pretrained:
        model.init_weights()

    def features(images: np.ndarray) -> np.ndarray:
        found = []
        with torch.no_grad():
            if images.ndim == 5:
                images = images[:, None]  # a clip has one view
            for part in np.array_split(images, max(1, len(images) // 64)):
                batch = model.data_preprocessor({"inputs": list(torch.from_numpy(part)), "data_samples": None})
                found.append(pooled_features(model, batch["inputs"]).flatten(1))
        return torch.cat(found).numpy()

    return features
