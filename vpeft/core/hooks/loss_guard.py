"""The loss: averaged over processes, and finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce_dict, is_distributed
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vpeft.core.trained.folder import checkpoints
from vpeft.errors import UserError
from vpeft.registry import HOOKS


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Stops a run whose loss is NaN or infinite before anything more is saved.

    With several processes the logged values are first averaged over them, so that the curve is that of the whole
    batch, and all processes stop together.
    """

    priority = 5  # before RuntimeInfoHook writes the values down

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Average and check this iteration's values."""
        tensors = {k: v for k, v in (outputs or {}).items() if isinstance(v, torch.Tensor)}
        if is_distributed() and tensors:
            tensors = {k: v.detach().float().clone() for k, v in tensors.items()}
            all_reduce_dict(tensors, op="mean")
            outputs.update(tensors)
        for key, value in tensors.items():
            if not torch.isfinite(value).all():
                last = next(iter(checkpoints(Path(runner.work_dir))), None)
                raise UserError(
                    f"{key} became {float(value.float().mean())} at iteration {runner.iter + 1} (epoch "
                    f"{runner.epoch + 1}): training stopped. The last good checkpoint is {last or 'not written yet'}; "
                    "lower the learning rate or clip gradients (optim_wrapper.clip_grad), then resume."
                )
