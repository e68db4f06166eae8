"""A progress line."""

from __future__ import annotations

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vpeft.registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """One line with iterations done, loss, time gone and time left, where the output is a terminal.

    Elsewhere mmengine's own log lines, which carry an ETA, are all there is.
    """

    priority = "LOW"

    def before_train(self, runner: Runner) -> None:
        """Draw the line."""
        console = Console(stderr=True)
        self.progress = None
        if not (console.is_terminal and is_main_process()):
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        left = (TextColumn("ETA"), TimeRemainingColumn(), TextColumn("loss {task.fields[loss]}"))
        self.progress = Progress(*columns, *left, console=console)
        self.task = self.progress.add_task("training", total=runner.max_iters, completed=runner.iter, loss="-")
        self.progress.start()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Move on."""
        if self.progress is not None:
            loss = (outputs or {}).get("loss")
            text = "-" if loss is None else f"{float(loss):.3f}"
            self.progress.update(self.task, completed=runner.iter + 1, loss=text)

    def after_train(self, runner: Runner) -> None:
        """Leave the finished line behind."""
        if self.progress is not None:
            self.progress.stop()
