"""What a run with PEFT needs of the Runner."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop, Runner
from torch.optim import Optimizer

from vpeft.core.adaptation.base_weights import NEVER
from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.report import parameter_report, render
from vpeft.core.adaptation.storing.checkpoint import (
    check_checkpoint,
    check_resumable,
    seal_checkpoint,
    shrink_checkpoint,
    use_own_keys,
)
from vpeft.core.adaptation.storing.fit import stated_classes
from vpeft.core.adaptation.training.losses import CONSISTENCY, add_losses, consistency_of
from vpeft.core.adaptation.training.movement import Movement
from vpeft.core.adaptation.training.selection_data import selection_batches, training_data
from vpeft.core.adaptation.training.steps import after_steps, keep_training_state, take_training_state
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.contract.training import TrainingStep
from vpeft.core.hooks.class_count import check_data
from vpeft.core.models.channels import check_channels
from vpeft.core.trained.record import run_record
from vpeft.errors import UserError
from vpeft.registry import HOOKS


@HOOKS.register_module()
class PEFTHook(Hook):
    """Small checkpoints that know their base, data that fit the heads, and an opening report.

    * Before anything is read it compares the data with the heads: numbers of classes, labels, values of label maps.
    * Before training it prints which method sits at which sites and what is trained, and stops if nothing is. If
      something of it does not move in the first steps, the run stops and names it.
    * Checkpoints hold PEFT parameters, head and what resume needs, not the frozen backbone; they carry the methods'
      configs, the host's description and a fingerprint of the base. The backbone's own pretrained file is needed to
      load one, and a checkpoint of another base is refused.

    Args:
        check_labels: Look at all labels and label maps of the run's data before it starts; of label maps, which are
            files, this takes some milliseconds each.
    """

    priority = "VERY_LOW"  # behind hooks that put weights into the checkpoint, such as EMAHook

    def __init__(self, check_labels: bool = True) -> None:
        self.check_labels = check_labels
        self.consistency: dict[str, Any] | None = None

    def before_run(self, runner: Runner) -> None:
        """Check model and data, and load the base in a test run too, where mmengine would leave it random."""
        model = unwrap(runner.model)
        check_channels(model)
        check_data(runner, self.check_labels)
        if isinstance(runner._train_loop, BaseLoop):  # a config or None as long as nothing trains
            return
        lacks = any(one.base.source == NEVER for one in find_adaptations(model).values())
        if lacks and not getattr(model, "is_init", False):
            model.init_weights()

    def before_test(self, runner: Runner) -> None:
        """Refuse to test a base that was never loaded."""
        for adaptation in find_adaptations(unwrap(runner.model)).values():
            adaptation.base.need("the test")

    def before_train(self, runner: Runner) -> None:
        """Report, check that something is trained, and select from the data what a method has to."""
        model = unwrap(runner.model)
        found = find_adaptations(model).values()
        for adaptation in found:
            adaptation.host.passes.unheard = None  # all that a method asks of a loop is done here
            adaptation.check()
            adaptation.base.need("training")
            adaptation.check_trained()
        add_losses(model)
        if (consistency := consistency_of(model)) is not None:
            if runner.cfg.get("compile"):
                raise UserError(
                    "compile= beside consistency=: a compiled step is a program, and the noise is drawn anew in every "
                    "pass. Leave one out."
                )
            consistency.resume(runner.iter, self.consistency)
        for adaptation in found:
            if adaptation.waits_for_selection:
                runner.logger.info("selecting from the training data, one pass without augmentation")
                adaptation.learn(
                    training_data(model, selection_batches(runner.cfg, model, runner.train_dataloader.dataset))
                )
        report = parameter_report(model)
        runner.logger.info("\n" + render(report))
        if report.total == 0:
            raise UserError(
                "nothing is trained: neither the method nor a head has a parameter that asks for a gradient."
            )
        self.movement = Movement(model)
        self.ends = after_steps(model, optimisers(runner), lambda _: step_of(runner))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Look whether everything that was reported has moved, until it has."""
        self._look(runner)

    def after_train(self, runner: Runner) -> None:
        """The same at the end of a short run."""
        for end in self.ends:
            end()
        self._look(runner, end=True)

    def _look(self, runner: Runner, end: bool = False) -> None:
        if self.movement.waiting and (said := self.movement.look(optimisers(runner), end)):
            runner.logger.warning(said)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen backbone out, unless it is random."""
        shrink_checkpoint(unwrap(runner.model), checkpoint)
        keep_training_state(unwrap(runner.model), checkpoint)
        consistency = consistency_of(unwrap(runner.model))
        if consistency is not None and (state := consistency.state()):
            checkpoint[CONSISTENCY] = state
        seal_checkpoint(checkpoint, run_classes(runner), runner.cfg.get("task"), run_record(runner.cfg))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other methods or of another base; one of the plain model gives the base."""
        model = unwrap(runner.model)
        file = str(getattr(runner, "_load_from", None) or "the checkpoint")
        if runner._resume:
            check_resumable(checkpoint, file)
            self.consistency = checkpoint.get(CONSISTENCY)
        check_checkpoint(model, checkpoint, file, run_classes(runner), runner.cfg.get("task"))
        if runner._resume:
            take_training_state(model, checkpoint, file)
        use_own_keys(model, checkpoint)


def optimisers(runner: Runner) -> list[Optimizer]:
    """The optimisers of a run."""
    wrapper = runner.optim_wrapper
    return [one.optimizer for one in (wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper])]


def step_of(runner: Runner) -> TrainingStep:
    """The step that the optimiser makes in the present iteration; several iterations may go into one."""
    wrapper = runner.optim_wrapper
    one = next(iter(wrapper.values())) if isinstance(wrapper, OptimWrapperDict) else wrapper
    each = getattr(one, "_accumulative_counts", 1)
    return TrainingStep(-(-(runner.iter + 1) // each), -(-runner.max_iters // each))


def run_classes(runner: Runner) -> list[str] | None:
    """Names of the classes of a run's data: what it trains on, or else what it is tested on."""
    loops = (runner._train_loop, runner._test_loop, runner._val_loop)  # a config or None where nothing of it is built
    return next((stated_classes(loop.dataloader.dataset) for loop in loops if isinstance(loop, BaseLoop)), None)
