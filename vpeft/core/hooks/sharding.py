"""Frozen weights shared out among the processes of a run."""

from __future__ import annotations

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.training.sharded import check_shardable, share_out, whole_bytes
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.errors import UserError


class ShardingHook(Hook):
    """Shares the frozen weights of the backbone's blocks out among the processes (:mod:`...training.sharded`).

    ``strategy="fsdp"`` in a config adds this hook. It acts when the weights are loaded, a checkpoint is resumed and
    what has to be selected is selected: as the last thing before training.
    """

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        """Share out."""
        model = unwrap(runner.model)
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise UserError("strategy='fsdp' beside EMAHook, whose average is of whole weights: leave one out.")
        found = list(find_adaptations(model).values())
        check_shardable(found)
        count = sum(share_out(adaptation) for adaptation in found)
        here, whole = whole_bytes(model)
        runner.logger.info(
            f"{count:,} frozen parameters are shared out among {runner.world_size} processes: {here / 2**20:,.1f} of "
            f"{whole / 2**20:,.1f} MiB of parameters in this one"
        )
