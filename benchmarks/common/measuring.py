"""Entries of a benchmark, and how their time and memory are measured."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.apis.benchmark.step_cost import step_peak_bytes

MIB = 2**20


def classification_loss(model: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of a classifier on images ``(B, 3, H, W)`` and labels ``(B,)``."""
    images, labels = inputs
    return F.cross_entropy(model(images), labels)


@dataclass
class Entry:
    """One row: a model and what is timed on it.

    Attributes:
        name: Name of the row.
        model: A model of its own; only the values of the base weights, which nobody writes, are shared.
        inputs: Tensors that a step reads: images first, then what its loss compares with.
        loss: The loss of a step, ``f(model, inputs)``.
        train: A step in train mode; otherwise a forward pass in eval mode without a graph.
        config: Hyper-parameters.
        times: Seconds of each round.
        saved_bytes: Of :func:`saved_bytes`; None for a forward pass without a graph.
        peak_bytes: Of :func:`peak_bytes`.
    """

    name: str
    model: nn.Module
    inputs: Sequence[Tensor]
    loss: Callable[[nn.Module, Sequence[Tensor]], Tensor] = classification_loss
    train: bool = True
    config: dict[str, Any] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    saved_bytes: int | None = None
    peak_bytes: int | None = None

    def __post_init__(self) -> None:
        self.model.train(self.train)

    def step(self) -> None:
        """Forward, or forward, backward and dropping the gradients. No optimiser step."""
        if not self.train:
            with torch.no_grad():
                self.model(self.inputs[0])
            return
        self.loss(self.model, self.inputs).backward()
        self.model.zero_grad(set_to_none=True)

    def timed_step(self) -> None:
        """One step, its seconds appended to ``times``."""
        synchronise(self.inputs[0])
        start = time.perf_counter()
        self.step()
        synchronise(self.inputs[0])
        self.times.append(time.perf_counter() - start)

    def trainable(self) -> int:
        """Trained parameters, head included."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def synchronise(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


# Memory -------------------------------------------------------------------------------------------------------------


def saved_bytes(entry: Entry) -> int:
    """Bytes that autograd keeps for the backward pass: whole storages, each once, without weights and inputs."""
    given = (*entry.model.parameters(), *entry.model.buffers(), *entry.inputs)
    static = {t.untyped_storage().data_ptr() for t in given}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in static:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would keep its own graph alive

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = entry.loss(entry.model, entry.inputs)
    del loss
    return sum(storages.values())


def peak_bytes(entry: Entry) -> int:
    """Most bytes that are allocated at once during a step, above what lay there before it; gradients included."""
    return step_peak_bytes(entry.step, entry.inputs[0].device)


# Measuring ----------------------------------------------------------------------------------------------------------


def measure(entries: list[Entry], pairs: Sequence[tuple[str, str]], rounds: int, report: Callable[[str], None]) -> None:
    """Memory first, which is the warm-up too, then ``rounds`` rounds of one timed step of every entry.

    The machine's speed drifts, so all entries are interleaved, in an order drawn anew for every round; entries that are
    compared run one after the other, in turns.

    Args:
        entries: What is measured; times and bytes are written into them.
        pairs: Names of entries that are compared.
        rounds: Timed steps of every entry.
        report: Told what is done.
    """
    for entry in entries:
        if entry.train:
            entry.saved_bytes = saved_bytes(entry)
        entry.peak_bytes = peak_bytes(entry)
        report(f"memory: {entry.name}")
    groups = neighbours(entries, pairs)
    order = random.Random(0)
    for number in range(rounds):
        order.shuffle(groups)
        for group in groups:
            for entry in group if number % 2 == 0 else reversed(group):
                entry.timed_step()
        report(f"round {number + 1} of {rounds}")


def neighbours(entries: list[Entry], pairs: Sequence[tuple[str, str]]) -> list[list[Entry]]:
    """Entries that are compared with the same one stand together, with it; all others alone."""
    groups: dict[str, list[Entry]] = {}
    leader = dict(pairs)
    for entry in entries:
        groups.setdefault(leader.get(entry.name, entry.name), []).append(entry)
    return list(groups.values())


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and quartiles."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "min": min(values), "q1": low, "q3": high}


def time_ratio(ours: Entry, other: Entry) -> dict[str, float]:
    """Spread of the ratio of the two times within each round."""
    return spread([a / b for a, b in zip(ours.times, other.times, strict=True)])


def byte_ratio(ours: int | None, other: int | None) -> float | None:
    return ours / other if ours is not None and other else None
