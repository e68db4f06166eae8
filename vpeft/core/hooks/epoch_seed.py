"""Random numbers that depend on seed and position in the run alone, so that a resumed run is the run."""

from __future__ import annotations

from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.utils import set_random_seed

from vpeft.registry import HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds Python, numpy and torch from the run's seed, the place in the run and the rank.

    In a loop over epochs this is done at the start of every training epoch, in one over iterations wherever a
    checkpoint is written and behind every validation: a run that was killed and resumed at a checkpoint so draws the
    same dropout, DropPath and augmentation as one that was not, as long as both write checkpoints at the same
    iterations. Data workers must start anew there and keep the seeds that torch gives them:
    ``persistent_workers=False, worker_init_fn=dict(type='vpeft_keep_seed')``; a loop over iterations needs mmengine's
    ``InfiniteSampler``, which can continue where it was.
    """

    priority = "VERY_HIGH"

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed this epoch, or what is left of a run by iterations."""
        seed(runner, runner.iter if by_iterations(runner) else runner.epoch)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Go on from a checkpoint as a run does that starts there; in every process, though one alone writes it."""
        if by_iterations(runner) and any(
            isinstance(hook, CheckpointHook) and not hook.by_epoch and self.every_n_train_iters(runner, hook.interval)
            for hook in runner.hooks
        ):
            restart(runner, runner.iter + 1)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """The same here: reading validation data draws numbers, and the best checkpoint is written behind it."""
        if by_iterations(runner):
            restart(runner, runner.iter)


def by_iterations(runner: Runner) -> bool:
    """Whether the run is trained in one long epoch."""
    return isinstance(runner._train_loop, IterBasedTrainLoop)


def seed(runner: Runner, place: int) -> None:
    """Seed Python, numpy and torch for an epoch or an iteration."""
    # Far apart, so that epoch 1 of seed 0 is not epoch 0 of seed 1.
    set_random_seed(((runner.seed or 0) * 100_003 + place * 1009 + get_rank()) % 2**31)


def restart(runner: Runner, iteration: int) -> None:
    """Seed, and start the data workers anew at an iteration; what they have read ahead is read again."""
    seed(runner, iteration)
    if hasattr(runner.train_dataloader.sampler, "skip"):
        runner.train_loop.dataloader_iterator.skip_iter(iteration)
