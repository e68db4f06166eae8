"""The detection operators in plain torch, through mmcv's own functions, against loops written from their definition."""

import importlib
import importlib.machinery
import math
import sys

import mmcv
import numpy as np
import pytest
import torch
from mmcv.ops import RoIAlign, batched_nms, nms, roi_align, sigmoid_focal_loss
from mmdet.structures.mask import BitmapMasks

from vpeft.compat import mmcv_operators as detection_ops
from vpeft.errors import UserError


@pytest.fixture(autouse=True)
def _in_plain_torch(monkeypatch):
    """Also where torchvision's operators load, and where mmcv has its own."""
    monkeypatch.setattr(detection_ops, "torchvision_has_ops", lambda: False)
    for module in ("nms", "roi_align", "focal_loss"):
        monkeypatch.setattr(sys.modules[f"mmcv.ops.{module}"], "ext_module", detection_ops)


def plain_nms(boxes, scores, threshold, offset):
    def area(box):
        return (box[2] - box[0] + offset) * (box[3] - box[1] + offset)

    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        for j in kept:
            one, two = boxes[i], boxes[j]
            width = max(min(one[2], two[2]) - max(one[0], two[0]) + offset, 0)
            height = max(min(one[3], two[3]) - max(one[1], two[1]) + offset, 0)
            shared = width * height
            union = area(one) + area(two) - shared
            if union > 0 and shared / union > threshold:
                break
        else:
            kept.append(i)
    return kept


def some_boxes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 40, (count, 2), generator=generator)
    size = torch.randint(0, 25, (count, 2), generator=generator)
    scores = torch.randint(1, 12, (count,), generator=generator) / 12  # many ties
    return torch.cat([corner, corner + size], 1).float(), scores


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7])
def test_nms_is_greedy_suppression(offset, threshold, monkeypatch):
    monkeypatch.setattr(detection_ops, "BLOCK", 16)
    for seed in range(3):
        boxes, scores = some_boxes(70, seed)
        kept = nms(boxes, scores, threshold, offset)[1]
        assert kept.tolist() == plain_nms(boxes.tolist(), scores.tolist(), threshold, offset)
        assert len(kept) < 70 or threshold == 0.7


def test_nms_takes_a_box_at_exactly_the_threshold():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [1.0, 0.0, 2.0, 1.0]])  # IoU 1 / 2
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.5)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.499)[1].tolist() == [0]
    assert nms(boxes, scores.flip(0), 0.499)[1].tolist() == [1]


def test_nms_of_equal_scores_keeps_the_first_and_of_nothing_nothing():
    boxes = torch.tensor([[5.0, 5.0, 9.0, 9.0]] * 4)
    dets, kept = nms(boxes, torch.full((4,), 0.5), 0.5)
    assert kept.tolist() == [0]
    assert dets.tolist() == [[5, 5, 9, 9, 0.5]]
    assert len(nms(boxes[:0], torch.zeros(0), 0.5)[1]) == 0


def test_nms_with_a_score_threshold_and_a_limit():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [5.0, 5.0, 6.0, 6.0], [9.0, 9.0, 10.0, 10.0]])
    scores = torch.tensor([0.2, 0.9, 0.6])
    assert nms(boxes, scores, 0.5, score_threshold=0.3)[1].tolist() == [1, 2]
    assert nms(boxes, scores, 0.5, max_num=1)[1].tolist() == [1]


def test_batched_nms_keeps_classes_apart():
    boxes, scores = some_boxes(60)
    classes = torch.arange(60) % 3
    _, kept = batched_nms(boxes, scores, classes, {"type": "nms", "iou_threshold": 0.3})
    expected = []
    for label in range(3):
        chosen = (classes == label).nonzero().flatten()
        expected += chosen[plain_nms(boxes[chosen].tolist(), scores[chosen].tolist(), 0.3, 0)].tolist()
    assert sorted(kept.tolist()) == sorted(expected)
    assert (scores[kept].diff() <= 0).all()


def plain_roi_align(maps, rois, size, scale, sampling, aligned):
    """Mean of bilinear samples in each cell, sample by sample."""
    height, width = maps.shape[2:]

    def sample(image, channel, y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return 0.0
        y, x = max(y, 0.0), max(x, 0.0)
        y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        b, a = (y - y0 if y0 < y1 else 0.0), (x - x0 if x0 < x1 else 0.0)
        plane = maps[image, channel]
        top = plane[y0, x0] * (1 - a) + plane[y0, x1] * a
        return top * (1 - b) + (plane[y1, x0] * (1 - a) + plane[y1, x1] * a) * b

    out = np.zeros((len(rois), maps.shape[1], *size))
    for k, (image, *box) in enumerate(rois):
        x1, y1, x2, y2 = (value * scale - (0.5 if aligned else 0.0) for value in box)
        extents = [y2 - y1, x2 - x1]
        if not aligned:
            extents = [max(extent, 1.0) for extent in extents]
        steps = [extent / cells for extent, cells in zip(extents, size, strict=True)]
        counts = [sampling if sampling > 0 else math.ceil(step) for step in steps]
        for c in range(maps.shape[1]):
            for p in range(size[0]):
                for q in range(size[1]):
                    total = 0.0
                    for i in range(counts[0]):
                        for j in range(counts[1]):
                            y = y1 + p * steps[0] + (i + 0.5) * steps[0] / counts[0]
                            x = x1 + q * steps[1] + (j + 0.5) * steps[1] / counts[1]
                            total += sample(int(image), c, y, x)
                    out[k, c, p, q] = total / max(counts[0] * counts[1], 1)
    return out


#: Inside, across every edge, wholly outside, without an extent, and the wrong way round.
ROIS = torch.tensor(
    [
        [0, 3.0, 2.0, 17.0, 13.0],
        [1, -6.0, -4.0, 9.0, 30.0],
        [1, 10.3, 5.7, 40.0, 11.2],
        [0, 60.0, 60.0, 80.0, 70.0],
        [0, 7.0, 7.0, 7.0, 7.0],
        [1, 9.0, 9.0, 4.0, 12.0],
        [0, 0.0, 0.0, 26.0, 22.0],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("together", [True, False], ids=["image by image", "gathered"])
def test_roi_align_is_the_mean_of_bilinear_samples(aligned, sampling, together, monkeypatch):
    monkeypatch.setattr(detection_ops, "REGIONS", 3)
    maps = torch.randn(2, 3, 11, 13, dtype=torch.float64)
    rois = ROIS if together else ROIS[[0, 1, 4]]
    out = roi_align(maps, rois, (3, 4), 0.5, sampling, "avg", aligned)
    expected = plain_roi_align(maps.numpy(), rois.tolist(), (3, 4), 0.5, sampling, aligned)
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-12)
    assert abs(expected[0]).max() > 0.1
    if together and aligned:
        assert not out[3].any()  # wholly outside
    single = roi_align(maps.float(), rois.float(), (3, 4), 0.5, sampling, "avg", aligned)
    np.testing.assert_allclose(single.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("which", [slice(None), [1, 0]], ids=["image by image", "gathered"])
def test_roi_align_gradients(aligned, sampling, which):
    maps = torch.randn(2, 1, 4, 5, dtype=torch.float64, requires_grad=True)

    def pool(maps):
        return roi_align(maps, ROIS[which], (2, 3), 0.25, sampling, "avg", aligned)

    assert torch.autograd.gradcheck(pool, maps)
    # The output is linear in the map.
    pool(maps).sum().backward()
    assert (maps.grad * maps).sum().item() == pytest.approx(pool(maps).sum().item(), abs=1e-10)


def test_roi_align_without_regions():
    maps = torch.randn(2, 3, 8, 8, requires_grad=True)
    out = RoIAlign(7, 0.5, 0)(maps, torch.zeros(0, 5))
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    assert not maps.grad.any()


def test_roi_align_by_the_maximum_says_what_it_needs():
    with pytest.raises(UserError, match="pool_mode='max' needs mmcv's compiled"):
        roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 0, "max", True)


def test_masks_are_cropped_and_resized():
    masks = np.zeros((2, 16, 16), dtype=np.uint8)
    masks[0, 4:12, 2:10] = 1
    masks[1, :, 8:] = 1
    boxes = np.array([[2, 4, 10, 12], [0, 0, 16, 16], [0, 0, 8, 16]], dtype=np.float32)
    cropped = BitmapMasks(masks, 16, 16).crop_and_resize(boxes, (4, 4), np.array([0, 1, 1]))
    assert cropped.masks[0].all()
    assert (cropped.masks[1] == [0, 0, 1, 1]).all()
    assert not cropped.masks[2].any()


@pytest.mark.parametrize("weighted", [True, False])
def test_sigmoid_focal_loss(weighted):
    logits = torch.randn(6, 3, dtype=torch.float64) * 3
    target = torch.tensor([0, 1, 2, 2, 0, 1] if weighted else [0, 1, 2, 3, 3, 1])
    weight = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64) if weighted else None
    gamma, alpha = 1.7, 0.3
    expected = np.zeros((6, 3))
    for n in range(6):
        for c in range(3):
            p = 1 / (1 + math.exp(-logits[n, c]))
            here = target[n] == c
            loss = -alpha * (1 - p) ** gamma * math.log(p) if here else -(1 - alpha) * p**gamma * math.log(1 - p)
            expected[n, c] = loss * (weight[target[n]] if weighted else 1)
    out = sigmoid_focal_loss(logits, target, gamma, alpha, weight, "none")
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-9)
    assert sigmoid_focal_loss(logits, target, gamma, alpha, weight, "mean").item() == pytest.approx(expected.sum() / 6)
    logits.requires_grad_()

    def loss(logits):
        return sigmoid_focal_loss(logits, target, gamma, alpha, weight, "sum")

    assert torch.autograd.gradcheck(loss, logits)


def test_an_unknown_operator_says_what_to_do():
    from vpeft.compat.mmcv import _Operators

    operators = _Operators("mmcv._ext")
    assert operators.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), iou_threshold=0.5).tolist() == [0]
    with pytest.raises(UserError, match="'deform_conv_forward' is none of those that vpeft has"):
        operators.deform_conv_forward(1, 2)


def test_compiled_operators_go_before_these(tmp_path, monkeypatch):
    """Where a module ``mmcv._ext`` can be imported, it is; only else the finder gives its own."""
    for folder in mmcv.__path__:
        if importlib.machinery.PathFinder.find_spec("mmcv._ext", [folder]):
            pytest.skip("mmcv has its compiled operators here")

    def load():
        monkeypatch.delitem(sys.modules, "mmcv._ext", raising=False)
        importlib.invalidate_caches()
        return importlib.import_module("mmcv._ext")

    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    assert type(load()).__name__ == "_Operators"
    (tmp_path / "_ext.py").write_text("nms = 'compiled'\n")
    assert load().nms == "compiled"


def test_mmdet_uses_them_after_a_plain_import():
    """mmdet replaces what it cannot import by functions that raise."""
    from mmdet.models.dense_heads import base_dense_head
    from mmdet.structures.mask import structures

    assert base_dense_head.batched_nms is batched_nms
    assert structures.roi_align is roi_align
