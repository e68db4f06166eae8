"""Training a supernet."""

from __future__ import annotations

import random

from mmengine.hooks import Hook
from mmengine.runner import Runner

from vpeft.core.adaptation.find import find_adaptation
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.contract.subnets import find_space
from vpeft.registry import HOOKS


@HOOKS.register_module()
class SupernetHook(Hook):
    """Trains another subnet in every iteration, drawn from the run's seed and the iteration alone.

    The space is that of the method, with the settings of the config's field ``noah``.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the supernet."""
        adaptation = find_adaptation(unwrap(runner.model))
        self.space = find_space(adaptation.on_host.values(), runner.cfg.noah)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Draw this iteration's subnet."""
        self.space.apply(self.space.draw(random.Random(f"{runner.seed} {runner.iter}")))

    def after_train(self, runner: Runner) -> None:
        """The whole supernet is active again."""
        self.space.apply(self.space.largest)
