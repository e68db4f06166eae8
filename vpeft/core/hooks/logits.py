"""Storing what a model predicts on the test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.dist import collect_results, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.families.samples import class_scores_of, label_of
from vpeft.core.trained.folder import LOGITS
from vpeft.core.trained.logits import Logits, write_logits
from vpeft.errors import UserError
from vpeft.registry import HOOKS

#: Fields of a config that say which data is tested.
DATA_FIELDS = ("suite", "task", "eval_split", "shift", "data_variant")


@HOOKS.register_module()
class LogitsHook(Hook):
    """Writes the class scores of a test run, with labels and sample identities, into ``logits.safetensors``.

    The scores are those that leave the head; where a sample has several views and so no row of its own, the logarithm
    of the probability that was predicted for it.

    Args:
        file: Name of the file in the work directory.
    """

    def __init__(self, file: str = LOGITS) -> None:
        self.file = file
        self.rows: list[tuple[Tensor, int, int, str]] = []
        self.seen: Any = None
        self.handle: Any = None
        self.kind = "logits"

    def before_test_epoch(self, runner: Runner) -> None:
        """Look at the head."""
        model = unwrap(runner.model)
        head = getattr(model, "head", None) or getattr(model, "cls_head", None)
        self.rows, self.seen, self.kind = [], None, "logits"
        if head is not None:
            self.handle = head.register_forward_hook(self.look)

    def look(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Keep what the head gave."""
        self.seen = output

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: list[Any] | None = None
    ) -> None:
        """Keep this batch."""
        scores, self.seen = self.seen, None
        if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != len(outputs):
            scores, self.kind = [_predicted(sample).log() for sample in outputs], "log_probabilities"
        for number, (row, sample) in enumerate(zip(scores, outputs, strict=True)):
            label = label_of(sample)
            if label is None:
                raise UserError("logits are stored for samples with one class label each; these have none or several.")
            index = sample.metainfo.get("sample_idx", len(self.rows) + number)
            self.rows.append((row.detach().float().cpu(), label, index, _identity(sample, index)))

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Gather the processes' rows and write the file."""
        if self.handle is not None:
            self.handle.remove()
        rows = collect_results(self.rows, len(runner.test_dataloader.dataset), "cpu")
        if not is_main_process():
            return
        rows = sorted(rows, key=lambda row: row[2])
        adaptation = get_adaptation(unwrap(runner.model))
        methods = ["plain"] if adaptation is None else [m.registered_name() for m in adaptation.methods.values()]
        predictions = Logits(
            torch.stack([row[0] for row in rows]),
            torch.tensor([row[1] for row in rows]),
            [row[3] for row in rows],
            {key: runner.cfg.get(key) for key in DATA_FIELDS},
            "+".join(methods),
            self.kind,
        )
        path = write_logits(predictions, Path(runner.work_dir) / self.file)
        runner.logger.info(f"logits of {len(rows)} samples written to {path}")


def _predicted(sample: Any) -> Tensor:
    score = class_scores_of(sample)
    if score is None:
        raise UserError("logits can be stored of classification only: this model predicts no score per class.")
    return score


def _identity(sample: Any, index: int) -> str:
    path = sample.metainfo.get("img_path") or sample.metainfo.get("filename")
    return "/".join(Path(path).parts[-2:]) if path else str(index)
