"""Segmentation heads and data sets that do not fit each other."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from vpeft.core.adaptation.wrappers import unwrap
from vpeft.errors import UserError
from vpeft.registry import HOOKS


@HOOKS.register_module()
class SegmentationCheckHook(Hook):
    """Stops before the first iteration where a decode head has another number of classes than a data set.

    Too few would end training deep in the loss; too many would train and test without a word.
    """

    def before_run(self, runner: Runner) -> None:
        """Compare every decode head with every data set of the run.

        Raises:
            UserError: They differ; the message names head and data set.
        """
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        heads = {n: m for n, m in unwrap(runner.model).named_modules() if isinstance(m, BaseDecodeHead)}
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if not isinstance(loop, BaseLoop):  # a config or None as long as it is not used
                continue
            dataset = loop.dataloader.dataset
            classes = dataset.metainfo.get("classes") if hasattr(dataset, "metainfo") else None
            for name, head in heads.items():
                if classes is not None and head.num_classes != len(classes):
                    raise UserError(
                        f"model.{name}.num_classes={head.num_classes}, and {type(dataset).__name__} has {len(classes)} "
                        "classes: set num_classes of every head to the data set's."
                    )
