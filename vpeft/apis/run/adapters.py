"""The adapter files of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from vpeft.apis.adapters import save_adapter
from vpeft.core.adaptation.find import adaptations
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.hooks.peft_hook import run_classes
from vpeft.core.trained.folder import ADAPTER, BEST_ADAPTER
from vpeft.core.trained.record import run_record


def write_adapters(runner: Runner) -> None:
    """Write what a run has learned beside its last checkpoint, and what its best checkpoint holds beside that one.

    What is written is what a checkpoint written now would hold, and what validation measures: where a hook puts other
    values there than those of the model, such as ``EMAHook``'s averages, it is these.
    """
    model = unwrap(runner.model)
    if not adaptations(model):
        return
    checkpoint: dict[str, Any] = {"state_dict": dict(model.state_dict()), "meta": {}, "message_hub": {}}
    runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
    _write(runner, model, checkpoint["state_dict"], Path(runner.work_dir) / ADAPTER)
    best = _best_checkpoints(runner)
    for metric, path in best.items():
        name = BEST_ADAPTER if len(best) == 1 else BEST_ADAPTER.replace("best", f"best_{metric.replace('/', '_')}")
        state = CheckpointLoader.load_checkpoint(str(path), map_location="cpu")["state_dict"]
        _write(runner, model, state, Path(runner.work_dir) / name)


def _best_checkpoints(runner: Runner) -> dict[str, Path]:
    """The best checkpoints by what they are best in, as ``CheckpointHook`` with ``save_best`` has noted them."""
    found = {}
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best:
            several = getattr(hook, "best_ckpt_path_dict", {})
            one = getattr(hook, "best_ckpt_path", None)
            found |= several or {hook.key_indicators[0]: one}
    return {metric: Path(path) for metric, path in found.items() if path and Path(path).is_file()}


def _write(runner: Runner, model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    with _holding(model, state):
        run = run_record(runner.cfg)
        save_adapter(model, path, classes=run_classes(runner), task=runner.cfg.get("task"), run=run)
    runner.logger.info(f"adapter written to {path}")


@contextmanager
@torch.no_grad()
def _holding(model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the context the model holds these tensors, afterwards its own."""
    own = {key: value for key, value in model.state_dict().items() if isinstance(state.get(key), Tensor)}
    kept = {key: value.clone() for key, value in own.items()}
    for key, value in own.items():
        value.copy_(state[key])
    try:
        yield
    finally:
        for key, value in own.items():
            value.copy_(kept[key])
