"""How the test samples of a run's config are read, its annotations left out: what a file without any goes through."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine import Config
from mmengine.registry import TRANSFORMS, DefaultScope


def test_reader(cfg: Config) -> tuple[list[dict[str, Any]], int]:
    """The steps of a config's test pipeline, or else of its validation's, and the images of a batch; none and 1 where
    it has neither.
    """
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    if not loader:
        return [], 1
    dataset = loader["dataset"]
    while "pipeline" not in dataset and ("dataset" in dataset or dataset.get("datasets")):
        dataset = dataset["dataset"] if "dataset" in dataset else dataset["datasets"][0]
    scope = cfg.get("default_scope") or "mmengine"
    steps = [dict(step) for step in dataset.get("pipeline") or ()]
    with DefaultScope.overwrite_default_scope(scope):
        kept = [step for step in steps if not _reads_annotations(step)]
    return kept, int(loader.get("batch_size") or 1)


test_reader.__test__ = False  # none of pytest's


def _reads_annotations(step: Mapping[str, Any]) -> bool:
    """Whether a step is a ``LoadAnnotations`` of whatever package."""
    kind = TRANSFORMS.get(step["type"]) if isinstance(step["type"], str) else step["type"]
    kinds = inspect.getmro(kind) if inspect.isclass(kind) else ()
    return any(one.__name__.endswith("Annotations") for one in kinds)
