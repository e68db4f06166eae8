"""A run's model made plain: merged where it merges, and held against the adapted one."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from vpeft.apis.adapters import detach, merge
from vpeft.apis.export.merged import MERGED_TOLERANCE, WRITTEN_TOLERANCE
from vpeft.apis.predict.predictor import Predictor
from vpeft.core.adaptation.find import adaptations
from vpeft.core.models.outputs import class_scores
from vpeft.errors import UserError


class Answers(nn.Module):
    """What is exported of a model, and compared: preprocessed images to class scores before the softmax.

    Of segmentation the scores are in the size of the input, ``(B, classes, H, W)``; of detection the backbone's maps.
    """

    def __init__(self, model: nn.Module, family: str | None) -> None:
        super().__init__()
        self.model, self.family = model, family

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.family == "detection":
            return tuple(self.model.backbone(images))
        if self.family == "segmentation":
            scores = self.model(images, mode="tensor")
            corners = self.model.decode_head.align_corners
            return F.interpolate(scores, images.shape[-2:], mode="bilinear", align_corners=corners)
        return class_scores(self.model, images)


@dataclass
class PlainModel:
    """A run's model, ready to be written elsewhere.

    Attributes:
        run: The run, whose model is the merged one, or the adapted one where it does not merge.
        unmerged: Why it is not merged; None where it is, or was never adapted.
        images: Preprocessed random images, float32.
        difference: Between the adapted and the plain model's answers, relative to the largest.
    """

    run: Predictor
    unmerged: str | None
    images: Tensor = field(repr=False)
    difference: float

    @property
    def answers(self) -> Answers:
        """What its model answers."""
        return Answers(self.run.model, self.run.family).eval()

    def need_merged(self, to: str) -> None:
        """Refuse a form that holds a plain model alone.

        Raises:
            UserError: The model could not be merged.
        """
        if self.unmerged is not None:
            raise UserError(f"--to {to} holds a plain model: {self.unmerged} Take --to onnx, torchscript or pt2.")


def plain_model(run: Predictor) -> PlainModel:
    """Merge a run's model in place where it merges, and compare.

    Raises:
        UserError: The merged model answers otherwise.
    """
    model, images, unmerged = run.model.cpu(), example_images(run), None
    before = flat_answers(Answers(copy.deepcopy(model).double(), run.family), images.double())
    if adaptations(model):
        try:
            double = copy.deepcopy(model).double()
            left = merge(double)
            if left:
                unmerged = f"{', '.join(left)} cannot be merged."
        except UserError as error:
            unmerged = str(error)
        if unmerged is None:
            merged = difference(before, flat_answers(Answers(double, run.family), images.double()))
            if not merged <= MERGED_TOLERANCE:
                raise UserError(
                    f"{run.file}: merging changes the answers by {merged:.1e} (relative): nothing is written."
                )
            merge(model)
            detach(model, restore=False)
    written = difference(before, flat_answers(Answers(model, run.family), images))
    if not written <= WRITTEN_TOLERANCE:
        raise UserError(
            f"{run.file}: the plain model answers otherwise by {written:.1e} (relative): nothing is written."
        )
    return PlainModel(run, unmerged, images, written)


@torch.no_grad()
def flat_answers(answers: nn.Module, images: Tensor) -> Tensor:
    """All answers in one vector, float64."""
    out = answers.eval()(images)
    return torch.cat([one.double().flatten() for one in (out if isinstance(out, (tuple, list)) else (out,))])


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest answer."""
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-12))


def example_images(run: Predictor, count: int = 2, seed: int = 0, size: tuple[int, int] | None = None) -> Tensor:
    """Random images through the run's own reading and preprocessing, ``(count, ...)`` as its model takes them.

    Args:
        run: The run.
        count: How many.
        seed: Of the drawing.
        size: Another height and width than that of its reading: its pixels are drawn from those then.
    """
    height, width = input_size(run)
    generator = torch.Generator().manual_seed(seed)
    if run.family == "video":
        frames = next((s["clip_len"] for s in run.steps if "clip_len" in s), 8)
        clips = torch.randint(0, 256, (count, 1, 3, frames, height, width), generator=generator)
        samples = {"inputs": list(clips.to(torch.uint8)), "data_samples": None}
    else:
        images = torch.randint(0, 256, (count, height, width, 3), generator=generator).to(torch.uint8).numpy()
        samples = pseudo_collate([run.read_array(image) for image in images])
    inputs = run.model.data_preprocessor(samples, False)["inputs"]
    read = (torch.stack(inputs) if isinstance(inputs, (list, tuple)) else inputs).float().cpu()
    if size is None or read.shape[-2:] == size:
        return read
    pixels = torch.randint(read.shape[-2] * read.shape[-1], (size[0] * size[1],), generator=generator)
    return read.flatten(-2)[..., pixels].unflatten(-1, size)


def input_size(run: Predictor) -> tuple[int, int]:
    """Height and width that the run's test images have, by its reading or else by its backbone; else 224."""
    steps = (run.preprocessing or {}).get("resize") or []
    size = steps[-1]["size"] if steps else (run.cfg.model.get("backbone") or {}).get("img_size", 224)
    size = [size, size] if isinstance(size, int) else list(size)
    size = [one for one in size if one > 0] or [224]
    width, height = (size * 2)[:2] if steps else (size * 2)[1::-1]
    return height, width
