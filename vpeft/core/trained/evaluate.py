"""The main figure of a model on data."""

from __future__ import annotations

import copy

import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from torch import nn
from torch.utils.data import DataLoader

from vpeft.core.trained.run import Run


def evaluate(model: nn.Module, run: Run, loader: DataLoader) -> dict[str, float]:
    """The metrics of a run's test evaluator on a data set.

    Args:
        model: The model, in eval mode.
        run: States the evaluator.
        loader: Batches of the data set, as ``model.test_step`` takes them.
    """
    init_default_scope(run.cfg.get("default_scope", "mmengine"))
    evaluator = Evaluator(copy.deepcopy(run.cfg.test_evaluator))
    evaluator.dataset_meta = loader.dataset.metainfo
    with torch.no_grad():
        for batch in loader:
            evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
    return evaluator.evaluate(len(loader.dataset))
