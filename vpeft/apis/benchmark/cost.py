"""What a run costs: time of an iteration, what the backward pass keeps, the price at inference."""

from __future__ import annotations

import copy
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine import Config
from mmengine.runner import Runner
from torch import Tensor, nn

from vpeft.core.adaptation.find import find_adaptation
from vpeft.errors import UserError

#: Images of a batch, and rounds, of the comparison at inference.
IMAGES, ROUNDS = 16, 5


def step_seconds(runner: Runner) -> float | None:
    """Median seconds of a training iteration, data included, without the first; None where nothing was trained."""
    times = runner.message_hub.log_scalars.get("train/time")
    values = [] if times is None else list(times.data[0])[1:]
    return statistics.median(values) if values else None


def machine_load() -> float | None:
    """Processes that ran or waited for a processor over the last minute, per processor of the machine; above 1 some
    waited. None where the system does not say.
    """
    return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else None


def training_batch(cfg: Config) -> Any:
    """One batch of a run's training images, as its loader gives them."""
    return next(iter(Runner.build_dataloader(copy.deepcopy(cfg.train_dataloader), seed=0)))


def kept_bytes(cfg: Config, model: nn.Module, batch: Any = None) -> int:
    """Bytes that autograd keeps of one training batch for the backward pass: whole storages, each once, without weights
    and inputs.

    Args:
        cfg: The run's config.
        model: The model; its modes are as before afterwards.
        batch: The batch; unless given the first of the config's loader.
    """
    batch = copy.deepcopy(training_batch(cfg) if batch is None else batch)
    modes = {name: module.training for name, module in model.named_modules()}
    model.train()
    data = model.data_preprocessor(batch, True)
    inputs = data["inputs"] if isinstance(data["inputs"], list) else [data["inputs"]]
    static = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), *inputs)}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in static:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = model(**data, mode="loss")
    del losses
    for name, module in model.named_modules():
        module.training = modes[name]
    return sum(kept.values())


@torch.no_grad()
def inference(cfg: Config, model: nn.Module) -> dict[str, Any]:
    """Time of a prediction with the adapter and with the merged one, each relative to the frozen host without it.

    Each takes turns with the host, so that what else the machine does hits both alike; the ratio is the median of the
    rounds'. On a CPU it is processor time.

    Returns:
        ``inference_ratio``, ``merged_ratio`` (None where the method cannot be merged, or only in part) and
        ``host_seconds`` of a batch of :data:`IMAGES` test samples or fewer.
    """
    loader = copy.deepcopy(cfg.test_dataloader)
    loader.batch_size = min(IMAGES, loader.batch_size)
    loader.num_workers, loader.persistent_workers = 0, False
    loader.pop("worker_init_fn", None)
    batch = next(iter(Runner.build_dataloader(loader, seed=0)))
    model.eval()
    adaptation = find_adaptation(model)
    ratio, seconds = _against_host(model, batch)
    merged = None
    try:
        if not adaptation.merge():
            merged, _ = _against_host(model, batch)
    except UserError:  # no method of it merges, or not with these options
        pass
    if adaptation.merged:
        adaptation.unmerge()
    return {"inference_ratio": ratio, "merged_ratio": merged, "host_seconds": seconds}


def _against_host(model: nn.Module, batch: Any) -> tuple[float, float]:
    """Median of the rounds' ratios of the model as it is to its host alone, and median seconds of the host."""
    adaptation, pairs = find_adaptation(model), []
    for number in range(ROUNDS + 1):
        own = _seconds(lambda: model.test_step(batch))
        with adaptation.disabled(), _fitting_heads(model):
            host = _seconds(lambda: model.test_step(batch))
        if number:  # the first is for caches
            pairs.append((own, host))
    return statistics.median(own / host for own, host in pairs), statistics.median(host for _, host in pairs)


@contextmanager
def _fitting_heads(model: nn.Module) -> Iterator[None]:
    """Heads that were made for what a method gives take what the host gives: features filled up or cut to a method's
    own width (``out_width``), empty maps of the sizes of a method's own (``out_maps``).
    """
    adaptation = find_adaptation(model)
    host, hooks = adaptation.host, []
    methods = adaptation.methods.values()
    if any(method.out_width(host) is not None for method in methods):
        heads = {module for name in host.heads() for module in host.backbone.get_submodule(name).modules()}
        outside = {*model.modules()} - {*host.backbone.modules()} | heads
        hooks = [m.register_forward_pre_hook(_fit) for m in outside if isinstance(m, nn.Linear)]
    maps = next(filter(None, (method.out_maps(host) for method in methods)), None)
    if maps is not None:
        hooks.append(model.backbone.register_forward_hook(partial(_with_maps, maps)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _with_maps(
    maps: list[tuple[int, float]], module: nn.Module, args: tuple[Tensor], output: Any
) -> tuple[Tensor, ...]:
    images = args[0]
    sizes = ((width, *(math.ceil(side / stride) for side in images.shape[-2:])) for width, stride in maps)
    return tuple(images.new_zeros(len(images), *size) for size in sizes)


def _fit(linear: nn.Linear, inputs: tuple[Tensor, ...]) -> Tensor | None:
    lacking = linear.in_features - inputs[0].shape[-1]
    return F.pad(inputs[0], (0, lacking)) if lacking else None


def _seconds(call: Callable[[], Any]) -> float:
    if not torch.cuda.is_available():
        start = time.process_time()  # that of other processes is not counted
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start
