"""The validation that a run was stopped before."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner


class DueValidationHook(Hook):
    """Makes up, in a resumed run, for the validation that was due after the checkpoint.

    A checkpoint is written before its epoch is validated. Of a run that was killed in between, the best checkpoint, or
    the last look of a trial, would be another than without the kill.
    """

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        """Validate, where that was due."""
        loop = runner.train_loop
        if not runner._resume or runner.val_loop is None:
            return
        loop._decide_current_val_interval()
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        done, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        if done and done >= loop.val_begin and (done % loop.val_interval == 0 or done == last):
            runner.val_loop.run()
