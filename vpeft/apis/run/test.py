"""Testing through mmengine's Runner."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine import Config

from vpeft.apis.config.setting import WrittenOnce
from vpeft.apis.results.by_hand import write_by_hand
from vpeft.apis.run.runner import RUNNER
from vpeft.core.adaptation.find import attached_methods
from vpeft.core.adaptation.storing.adapter_file import put_adapter, read_adapter
from vpeft.core.adaptation.storing.fit import check_methods, check_task, stated_classes
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.hooks.class_figures import ClassFiguresHook
from vpeft.core.hooks.data_store import DataStore
from vpeft.core.trained.folder import ADAPTER
from vpeft.core.trained.result import data_variant, run_result
from vpeft.errors import UserError


def test(cfg: Config, checkpoint: str, results: str | None = None) -> dict[str, Any]:  # noqa: PT028  (no test of pytest's)
    """Test a checkpoint of a run, or an adapter file, and write ``result.json`` into the work directory.

    The file has the form of a benchmark's results, so that leaderboards take it; what keeps it out of them is said.

    Args:
        cfg: The run's config.
        checkpoint: The file.
        results: A folder of results, such as a benchmark's, to put the result into as well.

    Returns:
        The result.

    Raises:
        UserError: The file is missing, broken or foreign.
    """
    if not os.path.isfile(checkpoint):
        raise UserError(f"{checkpoint} does not exist: give a run's epoch_*.pth or its {ADAPTER}.")
    data_variant(cfg)  # better now than behind the test
    cfg.resume = False
    cfg.load_from = None if checkpoint.endswith(".safetensors") else checkpoint
    runner = RUNNER.get().from_cfg(WrittenOnce.of(cfg))
    store = DataStore.started(cfg, runner, lasting=True)
    model = unwrap(runner.model)
    if cfg.load_from is None:
        tensors, metadata = read_adapter(checkpoint)
        model.init_weights()
        check_methods(attached_methods(model), metadata["methods"], checkpoint)
        check_task(metadata, checkpoint, cfg.get("task"), stated_classes(runner.test_dataloader.dataset))
        put_adapter(model, tensors, metadata, checkpoint)
    figures = ClassFiguresHook()
    runner.register_hook(figures)
    metrics = runner.test()
    if store:
        store.close()
    result = run_result(cfg, model, metrics, checkpoint, figures.found(), figures.tested())
    if runner.rank == 0:
        folder, tested = Path(results) if results else None, runner.test_dataloader.dataset
        result, kept_out = write_by_hand(cfg, result, Path(runner.work_dir), folder, tested)
        if kept_out is not None:
            runner.logger.info(f"this result stays out of leaderboards: {kept_out}")
    return result
