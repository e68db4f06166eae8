"""Pictures of a run while it goes on, through mmengine's visualizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.dataset import pseudo_collate
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vpeft.core.adaptation.find import find_adaptation
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.errors import UserError
from vpeft.registry import HOOKS


@HOOKS.register_module()
class AttentionHook(Hook):
    """Gives pictures of what the model looks at to the run's visualizer, after validation and after the test.

    ``custom_hooks = [..., dict(type="vpeft.AttentionHook", samples=[0, 7])]``; the pictures ``attention_<kind>`` go
    wherever the run's ``vis_backends`` lead: into files, TensorBoard, W&B, ...

    Args:
        samples: Places in the validation or test set.
        kinds: Kinds of maps (:data:`vpeft.extension.attention.KINDS`); those that suit the host when None.
        block: The block that is looked at, from the end where negative.
        interval: Validations between two pictures.
    """

    priority = "LOW"

    def __init__(
        self,
        samples: Sequence[int] = (0, 1, 2, 3),
        kinds: Sequence[str] | None = None,
        block: int = -1,
        interval: int = 1,
    ) -> None:
        self.samples, self.kinds, self.block, self.interval = tuple(samples), kinds, block, interval
        self.validations = 0

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw samples of the validation set."""
        self.validations += 1
        if self.validations % self.interval == 0:
            self.draw(runner, runner.val_dataloader.dataset)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw samples of the test set."""
        self.draw(runner, runner.test_dataloader.dataset)

    @master_only
    def draw(self, runner: Runner, data: Any) -> None:
        """Draw samples of ``data``.

        Raises:
            UserError: A sample does not exist, or the host has no attention of a kind.
        """
        from vpeft.core.trained.inputs import Look
        from vpeft.extension.attention.figure import picture
        from vpeft.extension.attention.maps import default_kinds, look

        if missing := [i for i in self.samples if not 0 <= i < len(data)]:
            raise UserError(
                f"AttentionHook: no sample {missing[0]}: the data set has the samples 0 to {len(data) - 1}."
            )
        model = unwrap(runner.model)
        label = "+".join(type(method).__name__ for method in find_adaptation(model).methods.values())
        looks = [Look(f"sample {i}", pseudo_collate([data[i]])) for i in self.samples]
        for kind in self.kinds or default_kinds(model):
            rows = [(sample, {label: look(model, sample, kind, self.block)}) for sample in looks]
            image = picture(rows, kind, data.metainfo.get("classes") or ())
            runner.visualizer.add_image(f"attention_{kind}", image, step=runner.iter)
