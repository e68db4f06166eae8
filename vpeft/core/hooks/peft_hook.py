"""What a run with PEFT needs of the Runner."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from vpeft.core.adaptation.find import backbone_prefix, find_adaptation
from vpeft.core.adaptation.report import parameter_report, render
from vpeft.core.adaptation.storing.adapter_file import adapter_metadata
from vpeft.core.adaptation.storing.checkpoint import check_checkpoint
from vpeft.core.adaptation.training.losses import add_losses
from vpeft.core.adaptation.training.selection_data import selection_batches, training_data
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.errors import UserError
from vpeft.registry import HOOKS


@HOOKS.register_module()
class PEFTHook(Hook):
    """Small checkpoints that know their base, and an opening report.

    * Before training it prints which method sits at which sites and what is trained, and stops if nothing is.
    * Checkpoints hold PEFT parameters, head and what resume needs, not the frozen backbone; they carry the methods'
      configs, the host's description and a fingerprint of the base. The backbone's own pretrained file is needed to
      load one, and a checkpoint of another base is refused.
    """

    priority = "VERY_LOW"  # behind hooks that put weights into the checkpoint, such as EMAHook

    def before_run(self, runner: Runner) -> None:
        """Load the base in a test run too, where mmengine would leave it random: checkpoints do not hold it."""
        if not isinstance(runner._train_loop, BaseLoop):  # a config or None as long as nothing trains
            unwrap(runner.model).init_weights()

    def before_train(self, runner: Runner) -> None:
        """Report, check that something is trained, and select from the data what a method has to."""
        model = unwrap(runner.model)
        adaptation = find_adaptation(model)
        adaptation.check_trained()
        add_losses(model)
        if adaptation.waits_for_selection:
            runner.logger.info("selecting from the training data, one pass without augmentation")
            adaptation.learn(training_data(model, selection_batches(runner.cfg, model)))
        report = parameter_report(model)
        runner.logger.info("\n" + render(report))
        if report.total == 0:
            raise UserError(
                "nothing is trained: neither the method nor a head has a parameter that asks for a gradient."
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen backbone out."""
        model = unwrap(runner.model)
        adaptation, prefix = find_adaptation(model), backbone_prefix(model)
        own = adaptation.own_keys()
        for name, state in checkpoint.items():
            if name in ("state_dict", "ema_state_dict"):
                head = "module." if name == "ema_state_dict" else ""
                for key in list(state):
                    inner = key.removeprefix(head)
                    if inner.startswith(prefix) and inner.removeprefix(prefix) not in own:
                        del state[key]
        checkpoint["peft"] = adapter_metadata(adaptation)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other methods or of another base."""
        model = unwrap(runner.model)
        check_checkpoint(model, checkpoint, str(getattr(runner, "_load_from", None) or "the checkpoint"))
