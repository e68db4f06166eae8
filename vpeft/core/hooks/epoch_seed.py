"""Random numbers that depend on seed and epoch alone, so that a resumed run is the run."""

from __future__ import annotations

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS
from mmengine.runner import Runner
from mmengine.runner.utils import set_random_seed

from vpeft.registry import HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds Python, numpy and torch at the start of every training epoch from the run's seed, the epoch and the rank.

    A run that was killed and resumed at an epoch so draws the same dropout, DropPath and augmentation as one that was
    not. Data workers must start anew each epoch and keep the seeds that torch gives them:
    ``persistent_workers=False, worker_init_fn=dict(type='vpeft_keep_seed')``.
    """

    priority = "VERY_HIGH"

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed this epoch."""
        # Far apart, so that epoch 1 of seed 0 is not epoch 0 of seed 1.
        set_random_seed(((runner.seed or 0) * 100_003 + runner.epoch * 1009 + get_rank()) % 2**31)


@FUNCTIONS.register_module(name="vpeft_keep_seed")
def keep_seed(worker_id: int, **kwargs) -> None:
    """A worker initialiser that leaves torch's own seeding of Python, numpy and torch as it is.

    It differs from epoch to epoch and follows from the main process; mmengine's is the same in every epoch.
    """
