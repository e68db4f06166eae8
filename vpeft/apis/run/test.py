"""Testing through mmengine's Runner."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine import Config
from mmengine.runner import Runner

from vpeft.core.adaptation.storing.adapter_file import put_adapter, read_adapter
from vpeft.core.adaptation.storing.fit import check_task, stated_classes
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.trained.folder import ADAPTER, RESULT
from vpeft.core.trained.load import check_methods
from vpeft.core.trained.result import run_result
from vpeft.errors import UserError
from vpeft.files import write_json


def test(cfg: Config, checkpoint: str) -> dict[str, Any]:
    """Test a checkpoint of a run, or an adapter file, and write ``result.json`` into the work directory.

    Returns:
        The result.

    Raises:
        UserError: The file is missing, broken or foreign.
    """
    if not os.path.isfile(checkpoint):
        raise UserError(f"{checkpoint} does not exist: give a run's epoch_*.pth or its {ADAPTER}.")
    cfg.resume = False
    cfg.load_from = None if checkpoint.endswith(".safetensors") else checkpoint
    runner = Runner.from_cfg(cfg)
    model = unwrap(runner.model)
    if cfg.load_from is None:
        tensors, metadata = read_adapter(checkpoint)
        model.init_weights()
        check_methods(model, metadata, checkpoint)
        check_task(metadata, checkpoint, cfg.get("task"), stated_classes(runner.test_dataloader.dataset))
        put_adapter(model, tensors, metadata, checkpoint)
    metrics = runner.test()
    result = run_result(cfg, model, metrics, checkpoint)
    if runner.rank == 0:
        write_json(Path(runner.work_dir) / RESULT, result)
    return result
