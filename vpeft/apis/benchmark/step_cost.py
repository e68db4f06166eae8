"""What one training step takes: its time in turns with a fixed reference model, and its memory."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor, nn

from vpeft.apis.benchmark.cost import kept_bytes, training_batch
from vpeft.apis.results.costs import BUSY
from vpeft.core.adaptation.wrappers import unwrap

#: Quiet rounds that are wanted, and rounds at most.
QUIET_ROUNDS, MOST_ROUNDS = 3, 9
#: Wall time over processor time above which a round was not quiet.
WAITED = 1.1
#: Of the reference: blocks, width, heads, tokens, images of a batch.
BLOCKS, WIDTH, HEADS, TOKENS, IMAGES = 4, 128, 4, 65, 16


class ReferenceStep:
    """A training step of the reference: pre-norm encoder layers of :data:`BLOCKS`, :data:`WIDTH`, :data:`HEADS` on
    :data:`IMAGES` x :data:`TOKENS` random tokens, all weights trained by AdamW in float32.

    Args:
        device: Where it is taken.
    """

    def __init__(self, device: torch.device) -> None:
        layers = [
            nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
            for _ in range(BLOCKS)
        ]
        self.model = nn.Sequential(*layers).to(device)
        self.tokens = torch.randn(IMAGES, TOKENS, WIDTH, device=device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)

    def __call__(self) -> None:
        self.model(self.tokens).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def training_cost(runner: Runner, threads: int, load: Callable[[], float | None]) -> dict[str, Any]:
    """Time and memory of a training step of a run that has ended: forward, backward and the optimiser's step on a
    preprocessed batch, without hooks. The model's weights may change.

    A round takes one step of the run and one of the reference, in turns. On one thread of a CPU a round is quiet where
    its wall time is at most :data:`WAITED` times its processor time, elsewhere by the machine's load. There are rounds
    until enough were quiet, and only these count, or where there were too few all.

    Args:
        runner: The run, trained.
        threads: CPU threads of the run.
        load: Tells the machine's load per processor, None where that is not known.

    Returns:
        ``step_ratio`` and ``reference_seconds`` (medians over the rounds that count), ``step_rounds`` (the quiet rounds
        that are wanted), ``quiet_rounds`` (those that there were; None where it cannot be told), and ``saved_bytes``,
        ``peak_bytes``, ``parameter_bytes`` (:mod:`vpeft.apis.results.costs`).
    """
    model, batch, wrapper = unwrap(runner.model), training_batch(runner.cfg), runner.optim_wrapper
    device = next(model.parameters()).device
    saved = kept_bytes(runner.cfg, model, batch)
    model.train()
    data = model.data_preprocessor(batch, True)

    def own() -> None:
        with wrapper.optim_context(model):
            losses = model(**data, mode="loss")
        wrapper.update_params(model.parse_losses(losses)[0])

    peak = step_peak_bytes(own, device) + _state_bytes(wrapper.optimizer)  # the warm-up, too
    reference = ReferenceStep(device)
    reference()
    told = device.type == "cpu" and threads == 1
    rounds: list[tuple[float, float, bool | None]] = []
    while sum(quiet or quiet is None for *_, quiet in rounds) < QUIET_ROUNDS and len(rounds) < MOST_ROUNDS:
        steps = [own, reference] if len(rounds) % 2 == 0 else [reference, own]
        times = {step: _times(step, device) for step in steps}
        wall, spent = (sum(one[i] for one in times.values()) for i in (0, 1))
        busy = load()
        quiet = wall <= WAITED * spent if told else None if busy is None else busy <= BUSY
        rounds.append((times[own][0], times[reference][0], quiet))
    calm = [one for one in rounds if one[2]]
    used = calm if len(calm) >= QUIET_ROUNDS else rounds
    return {
        "step_ratio": statistics.median(a / b for a, b, _ in used),
        "reference_seconds": statistics.median(b for _, b, _ in used),
        "step_rounds": QUIET_ROUNDS,
        "quiet_rounds": None if rounds[0][2] is None else len(calm),
        "saved_bytes": saved,
        "peak_bytes": peak,
        "parameter_bytes": storage_bytes([*model.parameters(), *model.buffers()]),
    }


def _times(step: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Wall and processor time of a step."""
    _wait(device)
    wall, spent = time.perf_counter(), time.process_time()
    step()
    _wait(device)
    return time.perf_counter() - wall, time.process_time() - spent


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors, each once."""
    return sum({(t.device, t.untyped_storage().data_ptr()): t.untyped_storage().nbytes() for t in tensors}.values())


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes that an optimiser keeps between steps."""
    return storage_bytes(v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor))


def step_peak_bytes(step: Callable[[], None], device: torch.device) -> int:
    """Most bytes that a step allocates at once above what lay there before it.

    On an accelerator as its allocator counts them; on a CPU as the profiler records torch's allocations, which leaves
    out what a library (oneDNN, MKL) takes for itself.
    """
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True, acc_events=True) as profile:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((e["ts"], i, e["args"]["Bytes"]) for i, e in enumerate(events) if e.get("name") == "[memory]")
    now = peak = 0
    for _, _, change in changes:
        now += change
        peak = max(peak, now)
    return peak
