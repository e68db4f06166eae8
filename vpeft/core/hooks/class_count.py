"""The class count of the data against the head's."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from vpeft.core.adaptation.wrappers import unwrap
from vpeft.errors import UserError
from vpeft.registry import HOOKS


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Stops a run whose heads have another number of classes than its data set, in training and in testing.

    mmdet's own hook looks at training and validation alone, and by assertions.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the training data."""
        check_class_count(unwrap(runner.model), runner.train_dataloader.dataset.metainfo)

    def before_val(self, runner: Runner) -> None:
        """Check the validation data."""
        check_class_count(unwrap(runner.model), runner.val_dataloader.dataset.metainfo)

    def before_test(self, runner: Runner) -> None:
        """Check the test data."""
        check_class_count(unwrap(runner.model), runner.test_dataloader.dataset.metainfo)


def check_class_count(model: nn.Module, metainfo: dict[str, Any]) -> None:
    """Check the heads of a detector against the classes of a data set.

    Raises:
        UserError: The numbers differ.
    """
    from mmdet.models.dense_heads import RPNHead

    classes = metainfo["classes"]
    for name, module in model.named_modules():
        count = getattr(module, "num_classes", None)
        if isinstance(count, int) and count != len(classes) and not isinstance(module, RPNHead):
            raise UserError(
                f"model.{name} has num_classes={count}, the data set has {len(classes)} classes "
                f"({', '.join(classes)}): set num_classes of every head to the number of classes."
            )
