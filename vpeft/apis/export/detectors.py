"""Detectors as one program: mmdet's answering of anchors and of regions, written for images of one size.

mmdet's own code asks for lengths in Python, which a traced program would keep as numbers. Here nothing hangs on how
many boxes there are; a detector whose own steps are others is refused. What a program answers is held against mmdet's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vpeft.errors import UserError

#: Names of a program's answers; the last of those with masks alone.
OUTPUTS = ("boxes", "scores", "labels", "masks")
OPSET = 17
#: The functions of a head that are written anew here.
OWN = ("predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
#: Most boxes that suppression keeps where nothing says how many.
ALL = 1 << 30


class _Suppress(torch.autograd.Function):
    """Non-maximum suppression: indices of the boxes that stay, the best first."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, iou: float, threshold: float, most: int) -> Tensor:
        from mmcv.ops import nms

        rows = (scores > threshold).nonzero().flatten()
        return rows[nms(boxes[rows], scores[rows], iou)[1]][:most]

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou: float, threshold: float, most: int) -> Any:
        boxes = g.op("Unsqueeze", boxes, _constant(g, [0]))
        scores = g.op("Unsqueeze", scores, _constant(g, [0, 1]))
        limits = (_constant(g, [most]), _constant(g, [iou]), _constant(g, [threshold]))
        found = g.op("NonMaxSuppression", boxes, scores, *limits)
        return g.op("Gather", found, g.op("Constant", value_t=torch.tensor(2)), axis_i=1)


class _Pool(torch.autograd.Function):
    """RoIAlign of regions ``(K, 5)`` on one map."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, rois: Tensor, size: int, scale: float, samples: int, aligned: bool) -> Tensor:
        from mmcv.ops import roi_align

        return roi_align(maps, rois, (size, size), scale, samples, "avg", aligned)

    @staticmethod
    def symbolic(g: Any, maps: Any, rois: Any, size: int, scale: float, samples: int, aligned: bool) -> Any:
        image = g.op("Gather", rois, g.op("Constant", value_t=torch.tensor(0)), axis_i=1)
        boxes = g.op("Slice", rois, *(_constant(g, [n]) for n in (1, 5, 1)))
        return g.op(
            "RoiAlign",
            maps,
            boxes,
            g.op("Cast", image, to_i=7),  # int64
            spatial_scale_f=scale,
            output_height_i=size,
            output_width_i=size,
            sampling_ratio_i=samples,
            mode_s="avg",
            coordinate_transformation_mode_s="half_pixel" if aligned else "output_half_pixel",
        )


def _constant(g: Any, values: list[int] | list[float]) -> Any:
    return g.op("Constant", value_t=torch.tensor(values))


def suppressed(boxes: Tensor, scores: Tensor, groups: Tensor, test: Any, threshold: float = -1.0) -> Tensor:
    """Indices of the boxes that stay, the best first; those of different groups do not meet.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``; those that are not above the threshold go.
        groups: ``(N,)``.
        test: ``nms`` and ``max_per_img`` of mmdet's test settings.
        threshold: Of the scores.
    """
    apart = boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]
    most = test.get("max_per_img", -1)
    return _Suppress.apply(apart, scores, test["nms"]["iou_threshold"], threshold, most if most > 0 else ALL)


def _of_size(boxes: Tensor, scores: Tensor, test: Any) -> Tensor:
    """The scores, below zero where a box is too small."""
    least = test.get("min_bbox_size", -1)
    sides = boxes[:, 2:] - boxes[:, :2]
    return torch.where((sides > least).all(1), scores, -torch.ones_like(scores)) if least >= 0 else scores


class OneStage(nn.Module):
    """An image ``(1, 3, H, W)`` to boxes ``(N, 4)`` in pixels of it, scores ``(N,)`` and labels ``(N,)``.

    Of detectors whose head answers as mmdet's ``BaseDenseHead`` does without score factors (RetinaNet).
    """

    def __init__(self, model: nn.Module, threshold: float) -> None:
        super().__init__()
        self.model, self.head, self.threshold = model, model.bbox_head, threshold

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        head, test = self.head, self.head.test_cfg
        boxes, scores, labels = [], [], []
        for chosen, deltas, priors in _levels(head, self.model.extract_feat(images)):
            best, places = chosen.flatten().topk(min(test.get("nms_pre", -1) % ALL, chosen.numel()))
            rows = torch.div(places, chosen.shape[1], rounding_mode="floor")
            boxes.append(head.bbox_coder.decode(priors[rows], deltas[rows], max_shape=images.shape[-2:]))
            scores.append(best)
            labels.append(places % chosen.shape[1])
        boxes, scores, labels = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
        keep = suppressed(boxes, _of_size(boxes, scores, test), labels, test, self.threshold)
        return boxes[keep], scores[keep], labels[keep]


class TwoStages(nn.Module):
    """An image to boxes, scores and labels as of :class:`OneStage`, and masks ``(N, H, W)`` where it has them.

    Of detectors with mmdet's ``RPNHead`` and its standard or cascaded head of regions.
    """

    def __init__(self, model: nn.Module, threshold: float) -> None:
        super().__init__()
        self.model, self.threshold = model, threshold

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        roi, size = self.model.roi_head, images.shape[-2:]
        maps = self.model.extract_feat(images)
        rois, total, heads = self._proposals(maps, size), 0.0, _stages(roi.bbox_head)
        for number, (head, extractor) in enumerate(zip(heads, _stages(roi.bbox_roi_extractor), strict=True)):
            scores, deltas = head(_pooled(extractor, maps, rois))
            total = total + scores
            if number < len(heads) - 1:
                meta = {"img_shape": size}
                rois = _with_image(head.regress_by_class(rois[:, 1:], scores[:, :-1].argmax(1), deltas, meta))
        boxes, scores, labels = self._classes(heads[-1], rois, total / float(len(heads)), deltas, size)
        keep = suppressed(boxes, scores, labels, roi.test_cfg, self.threshold)
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        masks = (self._masks(maps, boxes, labels, size),) if roi.with_mask else ()
        return boxes, scores, labels, *masks

    def _proposals(self, maps: tuple[Tensor, ...], size: torch.Size) -> Tensor:
        """``(K, 5)``."""
        head, test = self.model.rpn_head, self.model.test_cfg.rpn
        boxes, scores, levels = [], [], []
        for level, (chosen, deltas, priors) in enumerate(_levels(head, maps)):
            best, rows = chosen[:, 0].topk(min(test.get("nms_pre", -1) % ALL, len(chosen)))
            boxes.append(head.bbox_coder.decode(priors[rows], deltas[rows], max_shape=size))
            scores.append(best)
            levels.append(torch.full_like(rows, level))
        boxes, scores = torch.cat(boxes), torch.cat(scores)
        return _with_image(boxes[suppressed(boxes, _of_size(boxes, scores, test), torch.cat(levels), test, -0.5)])

    @staticmethod
    def _classes(
        head: nn.Module, rois: Tensor, scores: Tensor, deltas: Tensor, size: torch.Size
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Every region as every class: boxes ``(K * classes, 4)``, scores, labels."""
        scores, classes = scores.softmax(-1)[:, :-1], head.num_classes
        each = rois[:, 1:] if head.reg_class_agnostic else rois[:, 1:].repeat_interleave(classes, 0)
        boxes = head.bbox_coder.decode(each, deltas.reshape(-1, head.bbox_coder.encode_size), max_shape=size)
        boxes = boxes.repeat_interleave(classes, 0) if head.reg_class_agnostic else boxes
        labels = torch.arange(classes).expand_as(scores)
        return boxes, scores.flatten(), labels.flatten()

    def _masks(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor, size: torch.Size) -> Tensor:
        """``(N, H, W)``, bool. A box more goes along, since not every operator takes none."""
        roi, total = self.model.roi_head, 0.0
        boxes = torch.cat([boxes, boxes.new_tensor([[0.0, 0.0, size[1], size[0]]])])
        labels = torch.cat([labels, labels.new_zeros(1)])
        heads, rois = _stages(roi.mask_head), _with_image(boxes)
        for head, extractor in zip(heads, _stages(roi.mask_roi_extractor), strict=True):
            total = total + head(_pooled(extractor, maps, rois)).sigmoid()
        small = total / float(len(heads))
        if not heads[-1].class_agnostic:
            small = small.gather(1, labels[:, None, None, None].expand(-1, 1, *small.shape[2:]))
        x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
        rows, columns = _shares(y1, y2, size[0], small.shape[2]), _shares(x1, x2, size[1], small.shape[3])
        drawn = rows @ small[:, 0] @ columns.transpose(1, 2)
        return (drawn >= roi.test_cfg.mask_thr_binary)[:-1]


def _levels(head: nn.Module, maps: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each level the scores ``(places, classes)``, deltas ``(places, 4)`` and anchors ``(places, 4)``."""
    answers = head(maps)
    if len(answers) != 2:
        raise UserError(
            f"--to onnx: {type(head).__name__} answers more than scores and boxes (of {len(answers)} kinds), which no "
            "program here holds: take --to mmdet, and mmdeploy from there."
        )
    scores, deltas = answers
    priors = head.prior_generator.grid_priors([tuple(int(n) for n in s.shape[-2:]) for s in scores], device="cpu")
    rows = []
    for score, delta, anchors in zip(scores, deltas, priors, strict=True):
        score = score[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels)
        score = score.sigmoid() if head.use_sigmoid_cls else score.softmax(-1)[:, :-1]
        rows.append((score, delta[0].permute(1, 2, 0).reshape(-1, head.bbox_coder.encode_size), anchors))
    return rows


def _pooled(extractor: nn.Module, maps: tuple[Tensor, ...], rois: Tensor) -> Tensor:
    """Regions from the level that their size asks for, in their own order."""
    maps = maps[: extractor.num_inputs]
    level = extractor.map_roi_levels(rois, len(maps))
    rows = [(level == number).nonzero().flatten() for number in range(len(maps))]
    pooled = []
    for one, layer, chosen in zip(maps, extractor.roi_layers, rows, strict=True):
        size, samples = layer.output_size[0], max(layer.sampling_ratio, 0)
        pooled.append(_Pool.apply(one, rois[chosen], size, float(layer.spatial_scale), samples, layer.aligned))
    pooled = torch.cat(pooled)
    return pooled[torch.cat(rows).argsort()]


def _shares(start: Tensor, end: Tensor, pixels: int, cells: int) -> Tensor:
    """How much every pixel of an axis takes from every cell of a mask, bilinear, ``(N, pixels, cells)``."""
    at = (torch.arange(pixels) + 0.5 - start) / (end - start) * cells - 0.5
    return (1 - (at[:, :, None] - torch.arange(cells)).abs()).clamp(min=0)


def _with_image(boxes: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)


def _stages(parts: nn.Module) -> list[nn.Module]:
    return list(parts) if isinstance(parts, nn.ModuleList) else [parts]


def detector_program(model: nn.Module, threshold: float) -> nn.Module:
    """The module that a detector's program is made of.

    Args:
        model: mmdet's detector.
        threshold: Scores above it are answered.

    Raises:
        UserError: It answers in other steps than those that stand here.
    """
    from mmdet.models import dense_heads as dense
    from mmdet.models import roi_heads as regions

    known: list[tuple[str, type]] = [("bbox_head", dense.base_dense_head.BaseDenseHead)]
    parts: list[nn.Module] = [getattr(model, "bbox_head", None)]
    two = hasattr(model, "roi_head")
    if two:
        roi = model.roi_head
        parts = [model.rpn_head, *_stages(roi.bbox_head)]
        known = [("rpn_head", dense.RPNHead)] + [("bbox_head", regions.BBoxHead)] * (len(parts) - 1)
        if roi.with_mask:
            more = _stages(roi.mask_head)
            parts, known = [*parts, *more], known + [("mask_head", regions.FCNMaskHead)] * len(more)
    for part, (name, cls) in zip(parts, known, strict=True):
        if any(getattr(type(part), own, None) is not getattr(cls, own, None) for own in OWN):
            raise UserError(
                f"--to onnx: this detector's {name}, a {type(part).__name__}, answers in its own way; one in the way "
                f"of {cls.__name__} can be exported. Take --to mmdet, and mmdeploy from there."
            )
    ways = {cls.predict_bbox for cls in (regions.StandardRoIHead, regions.CascadeRoIHead)}
    if two and type(roi).predict_bbox not in ways:
        raise UserError(
            f"--to onnx: {type(roi).__name__} answers in its own way: take --to mmdet, and mmdeploy from there."
        )
    return (TwoStages if two else OneStage)(model, threshold)
