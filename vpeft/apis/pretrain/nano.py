"""Pretraining of the nano hosts on images drawn by rule."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmpretrain.models.utils import build_2d_sincos_position_embedding
from mmpretrain.registry import MODELS
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn

from vpeft.apis.pretrain.settings import PretrainSettings
from vpeft.core.backbones.nano import NANO_BACKBONES, NORMALISATION, sha256
from vpeft.core.datasets.embedded.shapes import SHAPES, TEXTURES, draw_shapes
from vpeft.errors import UserError


class Batch(NamedTuple):
    """Images and labels as tensors; the same fields as :class:`vpeft.core.datasets.embedded.shapes.Shapes`."""

    images: Tensor
    masks: Tensor
    shapes: Tensor
    textures: Tensor
    backdrops: Tensor


class ShapeClassifier(nn.Module):
    """A backbone with linear heads for shape and texture, and one for what each cell of the image shows.

    The cells are those of the last 4 x 4 map of tokens. They ask where the shape is and which texture is where:
    sixteen answers for each image instead of one, of which a short training learns more.

    Args:
        backbone: An mmpretrain backbone whose last output is tokens ``(n, 1 + cells, c)``, the class token
            first (``out_type='raw'``), or a map ``(n, c, h, w)``.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        with torch.no_grad():
            feature, cells = self.features(torch.zeros(1, 3, 32, 32))
        self.grid = math.isqrt(cells.shape[1])
        self.shape_head = nn.Linear(feature.shape[1], len(SHAPES))
        self.texture_head = nn.Linear(feature.shape[1], len(TEXTURES))
        self.cell_head = nn.Linear(feature.shape[1], 1 + len(TEXTURES))

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The feature ``(n, c)``, class token or mean of the map, and those of the cells ``(n, cells, c)``."""
        features = self.backbone(images)[-1]
        if features.ndim == 4:
            return features.mean((2, 3)), features.flatten(2).mT
        return features[:, 0], features[:, 1:]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of shape and texture for normalised images ``(n, 3, 32, 32)``."""
        feature, _ = self.features(images)
        return self.shape_head(feature), self.texture_head(feature)

    def loss(self, batch: Batch, label_smoothing: float) -> Tensor:
        """Cross entropy of shape and texture, plus that of the area and the texture of the cells."""
        feature, cells = self.features(normalise(batch.images))
        area = nn.functional.adaptive_avg_pool2d(batch.masks[:, None] / 255.0, self.grid).flatten(1)
        texture = torch.where(area > 0.5, batch.textures[:, None], batch.backdrops[:, None])
        found = self.cell_head(cells)
        entropy = nn.functional.cross_entropy
        return (
            entropy(self.shape_head(feature), batch.shapes, label_smoothing=label_smoothing)
            + entropy(self.texture_head(feature), batch.textures, label_smoothing=label_smoothing)
            + nn.functional.binary_cross_entropy_with_logits(found[..., 0], area)
            + entropy(found[..., 1:].flatten(0, 1), texture.flatten())
        )


def build_backbone(name: str) -> nn.Module:
    """Build a nano backbone with random weights by mmpretrain's own initialisation.

    Args:
        name: ``nano_vit`` or ``nano_swin``.

    Returns:
        The mmpretrain backbone; a ViT gives all tokens (``out_type='raw'``), and its position embedding starts
        from sines and cosines instead of random numbers.
    """
    config = dict(NANO_BACKBONES[name])
    if "out_type" in config:
        config["out_type"] = "raw"
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        backbone = MODELS.build(config)
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)  # mmengine lists every parameter otherwise
    backbone.init_weights()
    logger.setLevel(level)
    if hasattr(backbone, "pos_embed"):
        grid, width = backbone.patch_resolution[0], backbone.embed_dims
        backbone.pos_embed.data.copy_(build_2d_sincos_position_embedding(grid, width, cls_token=True))
    return backbone


def _batch(n: int, seed: list[int]) -> Batch:
    return Batch(*(torch.from_numpy(part) for part in draw_shapes(n, seed)))


def augment(batch: Batch, generator: torch.Generator) -> Batch:
    """Turn, mirror, invert and exchange the colours of a batch of uint8; no label depends on these.

    One draw serves the whole batch, since batches are drawn at random themselves.
    """
    turns, mirror, invert = torch.randint(8, (3,), generator=generator).tolist()
    images, masks = (torch.rot90(part, turns % 4, (-2, -1)) for part in (batch.images, batch.masks))
    if mirror % 2:
        images, masks = images.flip(-1), masks.flip(-1)
    images = 255 - images if invert % 2 else images
    return batch._replace(images=images[:, torch.randperm(3, generator=generator)], masks=masks)


def normalise(images: Tensor) -> Tensor:
    """uint8 pixels ``(n, 3, h, w)`` as the floats that the nano hosts expect."""
    mean, std = (torch.tensor(NORMALISATION[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (images.float() - mean) / std


def _optimizer(model: nn.Module, settings: PretrainSettings) -> torch.optim.Optimizer:
    matrices = [p for n, p in model.named_parameters() if p.ndim in (2, 4) and "bias_table" not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.0)


@torch.no_grad()
def validate(model: ShapeClassifier, batch: Batch) -> dict[str, float]:
    """Accuracy in percent of the shape, of the texture, and of both together.

    Args:
        model: The classifier; it is left in evaluation mode.
        batch: Images and labels.

    Returns:
        ``shape``, ``texture`` and ``both``.
    """
    model.eval()
    found = [[head.argmax(1) for head in model(normalise(part))] for part in batch.images.split(250)]
    shape, texture = (torch.cat(parts) for parts in zip(*found, strict=True))
    right = {"shape": shape == batch.shapes, "texture": texture == batch.textures}
    right["both"] = right["shape"] & right["texture"]
    return {name: 100 * hits.float().mean().item() for name, hits in right.items()}


def _write(path: Path, save: Any) -> None:
    """Call ``save`` with a temporary path beside ``path``, then put the file in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save(temporary)
    temporary.chmod(0o644)  # safetensors lets only the owner read
    os.replace(temporary, path)


def _logger(path: Path, host: str) -> logging.Logger:
    logger = logging.getLogger(f"vpeft.pretrain.{host}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    for handler in (logging.FileHandler(path, encoding="utf-8"), logging.StreamHandler()):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    return logger


def _run_epoch(
    model: ShapeClassifier,
    optimizer: torch.optim.Optimizer,
    settings: PretrainSettings,
    data: Batch,
    epoch: int,
    progress: Progress,
    task: Any,
) -> float:
    """Train on all images once, in an order that seed and epoch set; the mean loss."""
    model.train()
    generator = torch.Generator().manual_seed(settings.seed * 1000 + epoch)
    order = torch.randperm(len(data.images), generator=generator)
    total, steps = 0.0, len(data.images) // settings.batch_size
    for index in range(steps):
        chosen = order[index * settings.batch_size : (index + 1) * settings.batch_size]
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * settings.rate(epoch * steps + index)
        batch = augment(Batch(*(part[chosen] for part in data)), generator)
        loss = model.loss(batch, settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        progress.update(task, advance=1, description=f"{settings.host} loss {loss.item():.3f}")
    return total / steps


def pretrain(settings: PretrainSettings, out: Path | str) -> dict[str, float]:
    """Train a nano host; write ``<host>.safetensors`` (backbone only, fp32) and ``<host>.log`` into ``out``.

    After every epoch ``<host>.resume`` records the state; where it exists and its settings are the same, the run
    goes on from there, and it is deleted at the end.

    Args:
        settings: What to train.
        out: Folder for the results, made where it is missing.

    Returns:
        The held-out accuracies in percent: ``shape``, ``texture``, ``both``.

    Raises:
        UserError: If the state to go on from belongs to other settings.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    model = ShapeClassifier(build_backbone(settings.host))
    optimizer = _optimizer(model, settings)
    resume, made = out / f"{settings.host}.resume", dataclasses.asdict(settings)
    first, seconds = _go_on(resume, made, model, optimizer)

    log = _logger(out / f"{settings.host}.log", settings.host)
    backbone = model.backbone
    log.info("%s: %s", "resumed" if first else "settings", json.dumps(made))
    log.info("backbone: %s", json.dumps(NANO_BACKBONES[settings.host]))
    log.info("parameters of the backbone: %d", sum(p.numel() for p in backbone.parameters()))
    log.info("torch %s, python %s, %s", torch.__version__, platform.python_version(), platform.machine())

    begin = time.perf_counter()
    data = _batch(settings.images, [settings.seed, 0])
    held_out = _batch(settings.held_out, [settings.seed, 1])
    log.info("drew %d + %d images in %.0f s", settings.images, settings.held_out, time.perf_counter() - begin)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    per_epoch = settings.images // settings.batch_size
    with Progress(*columns) as progress:
        task = progress.add_task(settings.host, total=settings.steps, completed=first * per_epoch)
        for epoch in range(first, settings.epochs):
            begin = time.perf_counter()
            loss = _run_epoch(model, optimizer, settings, data, epoch, progress, task)
            accuracy = validate(model, held_out)
            seconds += time.perf_counter() - begin
            found = " ".join(f"{name} {value:.1f} %" for name, value in accuracy.items())
            log.info(f"epoch {epoch + 1}/{settings.epochs} loss {loss:.4f} held-out {found} time {seconds:.0f} s")
            state = {"settings": made, "epoch": epoch + 1, "seconds": seconds, "model": model.state_dict()}
            state["optimizer"] = optimizer.state_dict()
            _write(resume, lambda path, state=state: torch.save(state, path))

    accuracy = validate(model, held_out)
    result = _write_host(out, settings, backbone, accuracy)
    log.info("wrote %s, SHA-256 %s", result.name, sha256(result))
    resume.unlink(missing_ok=True)
    return accuracy


def _go_on(
    resume: Path, made: dict[str, Any], model: ShapeClassifier, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Put the state of an interrupted run back; its next epoch and its seconds so far."""
    if not resume.is_file():
        return 0, 0.0
    state = torch.load(resume, map_location="cpu", weights_only=True)
    if state["settings"] != made:
        raise UserError(f"{resume} has other settings ({state['settings']}); delete it to start anew.")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"], state["seconds"]


def _write_host(out: Path, settings: PretrainSettings, backbone: nn.Module, accuracy: dict[str, float]) -> Path:
    """Write the backbone, with what it was made from."""
    result = out / f"{settings.host}.safetensors"
    metadata = {
        "made by": "tools/pretrain_nano.py",
        "settings": json.dumps(dataclasses.asdict(settings)),
        "backbone": json.dumps(NANO_BACKBONES[settings.host]),
        "normalisation": json.dumps(NORMALISATION),
        "held-out accuracy in percent": json.dumps({name: round(v, 2) for name, v in accuracy.items()}),
    }
    weights = {name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}
    _write(result, lambda path: save_file(weights, path, metadata))
    return result
