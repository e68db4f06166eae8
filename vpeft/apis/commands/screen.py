"""The screen of a run: what is trained, on what and on which base, then one line of progress.

What mmengine says at length (machine, config, hooks, losses) stands in the run's log file; warnings stand on the
screen too. Everything goes to the standard error: on a terminal as one living line, elsewhere as plain lines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.logging.logger import FilterDuplicateWarning
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from vpeft.apis.jobs.scheduler import clock
from vpeft.apis.run.runner import RUNNER
from vpeft.core.adaptation.find import adaptations
from vpeft.core.adaptation.report import Report, parameter_report
from vpeft.core.adaptation.storing.fit import stated_classes
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.families.metrics import MAIN_METRICS, main_metric
from vpeft.core.hooks.progress import ProgressHook
from vpeft.errors import printable

#: Seconds between two plain lines where there is no terminal, and before the first, when the pace is known.
INTERVAL, FIRST = 30.0, 3.0
CONSOLE = Console(stderr=True, highlight=False)
#: The lines that are drawn now.
_LIVING: list[Progress] = []
#: What libraries say to those who write with them, or what the screen says itself.
TO_OTHERS = (
    "will be deprecated",
    "The prefix is not set in metric class",
    "The testing results of the whole dataset is empty",
    "Since `metrics` is an empty dict",
)
#: What the base's source means.
BASES = {"given": "as the model came", "random": "random weights, as the config says", "never": "random weights"}


@contextmanager
def run_screen(verbose: bool = False) -> Iterator[None]:
    """Within the context, runs have the screen described above.

    Args:
        verbose: Leave mmengine's own output on the screen instead.
    """
    if verbose:
        yield
        return
    _move_to_screen(MMLogger.get_current_instance())
    token = RUNNER.set(ScreenRunner)
    try:
        yield
    finally:
        RUNNER.reset(token)
        for progress in _LIVING:  # of a run that an error has ended
            progress.stop()
        _LIVING.clear()


class ScreenRunner(Runner):
    """mmengine's, whose log stands in its file, and whose progress is shown by :class:`ScreenHook`."""

    def build_logger(self, *args: Any, **options: Any) -> MMLogger:
        """As mmengine's; only warnings go to the screen."""
        logger = super().build_logger(*args, **options)
        _move_to_screen(logger)
        return logger

    def register_hooks(self, default_hooks: Any = None, custom_hooks: Any = None) -> None:
        """As mmengine's, with one line of progress, whether the config asks for one or not."""
        super().register_hooks(default_hooks, custom_hooks)
        self._hooks = [hook for hook in self._hooks if not isinstance(hook, ProgressHook)]
        self.register_hook(ScreenHook())


class _ScreenHandler(logging.Handler):
    """A log's messages as lines of the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.levelname.lower()}: {record.getMessage()}"
        CONSOLE.print(printable(line, lines=True), markup=False, soft_wrap=True)


def _move_to_screen(logger: MMLogger) -> None:
    """Let a log's warnings reach the screen as plain lines; its file keeps all."""
    files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    handler = _ScreenHandler(logging.WARNING if is_main_process() else logging.ERROR)
    handler.addFilter(FilterDuplicateWarning(logger.name))
    handler.addFilter(lambda record: not any(text in record.getMessage() for text in TO_OTHERS))
    logger.handlers = [*files, handler]


def show_lines(*lines: str) -> None:
    """Put lines on the screen of the first process."""
    for line in lines if is_main_process() else ():
        CONSOLE.print(printable(line, lines=True), markup=False, soft_wrap=True)


class ScreenHook(Hook):
    """What is trained or tested, then the progress."""

    priority = "LOWEST"

    def __init__(self) -> None:
        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # a narrow terminal cuts this off alone
        columns = (TextColumn("{task.description}"), BarColumn(16), MofNCompleteColumn(), TextColumn("ETA"))
        said = (TimeRemainingColumn(), TextColumn("{task.fields[said]}", table_column=rest))
        self.progress = Progress(*columns, *said, expand=True, console=CONSOLE, disable=not self.living())
        self.loss = self.metric = ""
        self.best: float | None = None
        self.next_line = 0.0
        self.shown: int | None = None
        self.task: TaskID | None = None

    # Training ---------------------------------------------------------------------------------------------------------

    def before_train(self, runner: Runner) -> None:
        """Show what is trained, where the base comes from and what the data are, and begin the line."""
        show_lines(*trained_lines(runner.model), *base_lines(runner.model), *data_lines(runner), *file_lines(runner))
        if runner.iter:
            self.best = _best(runner)
            show_lines(f"goes on    behind iteration {runner.iter:,}")
        self._begin("training", runner.max_iters, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Move on."""
        is_last = runner.iter + 1 == runner.max_iters
        if self.living() or self._is_time() or is_last:  # reading the loss waits for the device
            loss = (outputs or {}).get("loss")
            self.loss = "" if loss is None else f"loss {float(torch.as_tensor(loss).detach().mean()):.3f}"
        self._move(runner.iter + 1, last=is_last)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Show the metric, and the best so far."""
        figure, value = _figure(metrics or {}, runner.cfg.get("main_metric"))
        if value is not None:
            self.best = value if self.best is None else max(self.best, value)
        self.metric = figure + ("" if value is None else f" (best {100 * self.best:.2f} %)")
        show_lines(f"validated  iteration {runner.iter:,}: {self.metric}")
        if self.task is not None:
            self.progress.update(self.task, said=self._said())

    def after_train(self, runner: Runner) -> None:
        """Leave the finished line behind."""
        self._move(runner.iter, last=True)
        self._end()

    # Testing ----------------------------------------------------------------------------------------------------------

    def before_test(self, runner: Runner) -> None:
        """Show what is tested, and begin the line."""
        show_lines(*trained_lines(runner.model, "tested"), *data_lines(runner))
        self._begin("testing", len(runner.test_dataloader), 0)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move on."""
        self._move(batch_idx + 1)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Leave the finished line behind."""
        self._move(self.total, last=True)
        self._end()

    def after_run(self, runner: Runner) -> None:
        """Give the terminal back."""
        self._end()

    # The line ---------------------------------------------------------------------------------------------------------

    def living(self) -> bool:
        """Whether one line is drawn again and again."""
        return CONSOLE.is_terminal and is_main_process()

    def _begin(self, what: str, total: int, done: int) -> None:
        self._end()
        self.what, self.start, self.done_before = what, time.monotonic(), done
        self.next_line, self.shown = self.start + FIRST, None
        self.task = self.progress.add_task(what, total=total, completed=done, said="")
        self.total = total
        _LIVING.append(self.progress)
        self.progress.start()

    def _move(self, done: int, last: bool = False) -> None:
        self.progress.update(self.task, completed=done, said=self._said())
        if not self.living() and (last or self._is_time()) and self.shown != done:
            now = time.monotonic()
            left = (now - self.start) / max(done - self.done_before, 1) * max(self.total - done, 0)
            show_lines(f"{self.what:<10} {done:,}/{self.total:,}  {clock(left)} left  {self._said()}".rstrip())
            self.next_line, self.shown = now + INTERVAL, done

    def _said(self) -> str:
        return printable("  ".join(filter(None, (self.loss, self.metric))))

    def _is_time(self) -> bool:
        return time.monotonic() >= self.next_line

    def _end(self) -> None:
        self.progress.stop()
        if self.progress in _LIVING:
            _LIVING.remove(self.progress)


# What is said of a run ------------------------------------------------------------------------------------------------


def trained_lines(model: torch.nn.Module, deed: str = "trained") -> list[str]:
    """How much of a model is trained, by kind."""
    model = unwrap(model)
    if not adaptations(model):
        sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
        trained = sum(size for size, is_trained in sizes if is_trained)
        return [f"{deed:<10} {trained:,} of {sum(size for size, _ in sizes):,} parameters; no method is attached"]
    return report_lines(parameter_report(model), deed)


def report_lines(report: Report, deed: str) -> list[str]:
    """A report in two lines."""
    names = ", ".join(method["type"] for method in report.methods)
    whole = report.total + report.frozen
    share = f"{report.total:,} of {whole:,} parameters ({100 * report.total / max(whole, 1):.2f} %)"
    return [f"{deed:<10} {names} on {report.host}: {share}", f"           {', '.join(_kinds(report))}"]


def _kinds(report: Report) -> list[str]:
    kinds: dict[str, int] = {}
    for _, _, method, _, size in report.sites:
        kinds[method] = kinds.get(method, 0) + size
    for role, _, size in report.existing:
        kinds[f"own {role}"] = kinds.get(f"own {role}", 0) + size
    kinds |= report.outside
    return [f"{kind} {size:,}" for kind, size in kinds.items()] or ["nothing"]


def base_lines(model: torch.nn.Module) -> list[str]:
    """Where the frozen weights come from."""
    bases = {one.base.source: one.base for one in adaptations(unwrap(model)).values()}
    return [f"base       {base.file or BASES.get(source, source)}" for source, base in bases.items()]


def data_lines(runner: Runner) -> list[str]:
    """How many samples there are of what, and how many classes."""
    last = "validation" if runner.cfg.get("eval_split") == "val" else "test"
    loops = (("training", runner._train_loop), ("validation", runner._val_loop), (last, runner._test_loop))
    sets = {name: loop.dataloader.dataset for name, loop in loops if isinstance(loop, BaseLoop)}
    if not sets:
        return []
    counts = [f"{len(data):,} of {name}" for name, data in sets.items() if hasattr(data, "__len__")]
    classes = next(filter(None, map(stated_classes, sets.values())), None)
    task = runner.cfg.get("task")
    of = [] if classes is None else [f"{len(classes):,} classes"]
    return [f"data       {f'{task}: ' if task else ''}{', '.join([*counts, *of])}"]


def file_lines(runner: Runner) -> list[str]:
    """Where a run writes."""
    return [f"folder     {runner.work_dir}", f"log        {runner.logger.log_file or 'none'}"]


def _best(runner: Runner) -> float | None:
    """The best value of what a resumed run has seen before, None where it does not say so."""
    score, name = runner.message_hub.runtime_info.get("best_score"), runner.cfg.get("main_metric")
    return main_metric({name: score}, name)["value"] if score is not None and name in MAIN_METRICS else None


def _figure(metrics: Mapping[str, Any], name: str | None) -> tuple[str, float | None]:
    """The metric that counts as text, and its value in [0, 1]; one of another scale as it is."""
    found = main_metric(metrics, name) if name is None or (name in metrics and name in MAIN_METRICS) else None
    if found is not None and found["value"] is not None:
        return f"{found['name'].split('/')[-1]} {100 * found['value']:.2f} %", found["value"]
    others = (f"{key} {value:.4g}" for key, value in metrics.items() if isinstance(value, float))
    return next(others, "no figure" if metrics else "nothing is found yet"), None
