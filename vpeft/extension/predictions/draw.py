"""What runs of dense tasks predict, drawn on the images: boxes, masks, label maps, side by side with the truth."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgb
from mmengine.device import get_device
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmengine.visualization import Visualizer

from vpeft.core.datasets.load.image import LoadImage
from vpeft.core.trained.inputs import Look, dataset_looks, file_looks
from vpeft.core.trained.run import Run, open_runs
from vpeft.errors import UserError
from vpeft.extension.drawing.grids import Grid, GridCell, draw_grid
from vpeft.extension.drawing.plots import COLOURS, save_figure

#: Images are drawn with at least so many pixels on their shorter side: lines and texts have a size of their own.
LEAST = 320


def drawn(
    folders: Sequence[str | os.PathLike[str]],
    images: Sequence[str | os.PathLike[str]] | None = None,
    indices: Sequence[int] | None = None,
    count: int = 3,
    seed: int = 0,
    threshold: float = 0.3,
) -> tuple[Grid, list[tuple[str, tuple[float, ...]]]]:
    """A row for each image: the image, the truth where there is one, and every run's prediction.

    Args:
        folders: The runs' folders, of detection, instance or semantic segmentation, tested on the same data.
        images: Files to look at instead of test samples.
        indices: Test samples, by place; random ones when None.
        count: How many random ones.
        seed: Seed of the choice.
        threshold: Boxes and masks below this score are left out.

    Returns:
        The grid for :func:`~vpeft.extension.drawing.grids.draw_grid`, and names and colours of the classes in it.

    Raises:
        UserError: A folder is no run, runs are of different data, an image is missing, or a run predicts neither
            boxes nor label maps.
    """
    runs = open_runs(folders)
    grid = Grid([], [], ["input"] if images else ["input", "truth"])
    seen: set[int] = set()
    for run in runs:
        model = run.model(get_device())
        meta = _meta(run)
        visualizer = _visualizer(run, meta)
        looks = file_looks(run, images) if images else dataset_looks(run, indices, count, seed)
        grid.top.append(run.label)
        for number, look in enumerate(looks):
            with torch.no_grad():
                sample = model.test_step(look.batch)[0].cpu()
            if not ("pred_instances" in sample or "pred_sem_seg" in sample):
                raise UserError(
                    f"{run.folder}: {type(sample).__name__} holds neither boxes nor label maps to draw: for classes "
                    "take tools/visualization/attention.py."
                )
            if "pred_instances" in sample and "bboxes" not in sample.get("gt_instances", ()):
                sample.gt_instances = _truth(look)
            image, sample = enlarge(_image(sample, look), sample)
            if number == len(grid.rows):
                truth = [] if images else [GridCell(_draw(visualizer, image, sample, "gt", threshold))]
                grid.rows.append([GridCell(image), *truth])
                grid.left.append(look.name)
            picture = _draw(visualizer, image, sample, "pred", threshold)
            grid.rows[number].append(GridCell(picture, text=_said(sample, threshold)))
            seen |= _classes(sample, threshold)
    meta = _meta(runs[0])
    legend = [(meta["classes"][i], tuple(c / 255 for c in meta["palette"][i])) for i in sorted(seen)]
    return grid, legend


def _truth(look: Look) -> InstanceData:
    """Boxes of a sample whose test pipeline reads none, as those of COCO do not; empty where nobody states any."""
    boxes, labels = look.boxes or (np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    return InstanceData(bboxes=torch.from_numpy(boxes), labels=torch.from_numpy(labels))


def _meta(run: Run) -> dict[str, Any]:
    """Names and colours of a run's classes; where the data set has no colours, ones that all can tell apart."""
    meta = dict(run.dataset().metainfo)
    meta.setdefault("classes", ())
    if not meta.get("palette"):
        colours = [tuple(round(255 * c) for c in to_rgb(colour)) for colour in COLOURS]
        # Black is hard to see on images: it comes last, and beyond seven classes colours return.
        meta["palette"] = [colours[i % len(colours)] for i in range(len(meta["classes"]))]
    return meta


def _visualizer(run: Run, meta: Mapping[str, Any]) -> Visualizer:
    """The run's own visualizer, which writes nothing by itself."""
    cfg = {k: v for k, v in dict(run.cfg.get("visualizer") or {"type": "Visualizer"}).items() if k != "vis_backends"}
    visualizer = VISUALIZERS.build({**cfg, "name": f"vpeft_{run.folder.name}"})
    if not hasattr(visualizer, "add_datasample"):
        raise UserError(
            f"{run.folder}: its visualizer {cfg['type']} draws no predictions: set visualizer to DetLocalVisualizer or "
            "SegLocalVisualizer in its config."
        )
    visualizer.dataset_meta = dict(meta)
    return visualizer


def _image(sample: BaseDataElement, look: Look) -> np.ndarray:
    """The image in RGB as it was before the pipeline, to which predictions are scaled back."""
    path = sample.metainfo.get("img_path")
    if path is None:
        raise UserError(f"{look.name}: the test pipeline does not say where the image is: let it pack img_path.")
    return np.ascontiguousarray(LoadImage.read(path)[..., ::-1])


def enlarge(image: np.ndarray, sample: BaseDataElement) -> tuple[np.ndarray, BaseDataElement]:
    """A small image and what is predicted on it, a whole number of times larger.

    Args:
        image: ``(H, W, 3)``.
        sample: Boxes, masks and label maps in the image's pixels.
    """
    factor = max(1, -(-LEAST // min(image.shape[:2])))
    if factor == 1:
        return image, sample
    sample = copy.deepcopy(sample)
    for name in ("gt_instances", "pred_instances"):
        if name in sample:
            _enlarge_instances(sample.get(name), factor)
    for name in ("gt_sem_seg", "pred_sem_seg"):
        if name in sample:
            sample.set_field(PixelData(data=_larger(sample.get(name).data, factor)), name, dtype=PixelData)
    return image.repeat(factor, 0).repeat(factor, 1), sample


def _enlarge_instances(instances: Any, factor: int) -> None:
    boxes = getattr(instances.bboxes, "tensor", instances.bboxes)
    instances.bboxes = boxes * factor
    if "masks" in instances:
        masks = instances.masks
        masks = masks if isinstance(masks, torch.Tensor) else torch.as_tensor(masks.to_ndarray())
        instances.masks = _larger(masks.to(torch.uint8), factor).bool()


def _larger(maps: torch.Tensor, factor: int) -> torch.Tensor:
    return F.interpolate(maps[None].float(), scale_factor=factor, mode="nearest")[0].to(maps.dtype)


def _draw(
    visualizer: Visualizer, image: np.ndarray, sample: BaseDataElement, what: str, threshold: float
) -> np.ndarray:
    """``gt`` or ``pred`` of a sample on its image, by the package's own visualizer."""
    options: dict[str, Any] = {"draw_gt": what == "gt", "draw_pred": what == "pred"}
    options |= {"pred_score_thr": threshold} if "pred_instances" in sample else {"with_labels": False}
    visualizer.add_datasample("", image, sample, **options)
    return visualizer.get_image()


def _classes(sample: BaseDataElement, threshold: float) -> set[int]:
    """Classes that are seen in the truth or the prediction."""
    found: set[int] = set()
    if "pred_instances" in sample:
        found |= set(sample.pred_instances.labels[sample.pred_instances.scores > threshold].tolist())
        found |= set(sample.gt_instances.labels.tolist()) if "gt_instances" in sample else set()
    else:
        found |= set(sample.pred_sem_seg.data.unique().tolist())
        found |= set(sample.gt_sem_seg.data.unique().tolist()) - {255} if "gt_sem_seg" in sample else set()
    return found


def _said(sample: BaseDataElement, threshold: float) -> str:
    """The prediction in a few words."""
    if "pred_instances" in sample:
        text = f"{int((sample.pred_instances.scores > threshold).sum())} found"
        return f"{text}, {len(sample.gt_instances)} there" if "gt_instances" in sample else text
    if "gt_sem_seg" not in sample:
        return ""
    truth, said = sample.gt_sem_seg.data, sample.pred_sem_seg.data
    counted = truth != 255
    return f"{100 * float((truth == said)[counted].float().mean()):.1f} % of pixels right"


def write_predictions(
    grid: Grid, legend: Sequence[tuple[str, tuple[float, ...]]], out: str | os.PathLike[str], title: str = ""
) -> Path:
    """Write the grid as ``.png`` (or ``.svg``, by the ending of ``out``)."""
    out = Path(out)
    out = out if out.suffix in (".png", ".svg") else Path(f"{out}.png")
    return save_figure(draw_grid(grid, title=title, legend=legend, side=2.9), out, dpi=110)
