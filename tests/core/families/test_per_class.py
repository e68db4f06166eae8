"""The figure of every class beside that of a whole evaluation."""

import numpy as np
import pytest
import torch

from vpeft.core.families.per_class import ClassFigures, class_lines

NAMES = ("ant", "bee", "cow")


def computed(metric, results):
    """What a metric computes while it is looked at, and what was found."""
    metric.dataset_meta = {"classes": NAMES}
    plain = metric.compute_metrics(list(results))
    figures = ClassFigures([metric])
    assert metric.compute_metrics(list(results)) == plain
    return figures.found()


def test_images():
    from mmpretrain.evaluation import Accuracy

    scores = torch.eye(3)[[0, 1, 1, 1]]
    results = [{"pred_score": s, "gt_label": torch.tensor([n])} for s, n in zip(scores, [0, 0, 1, 1], strict=True)]
    assert computed(Accuracy(), results) == {"name": "accuracy", "values": {"ant": 0.5, "bee": 1.0, "cow": None}}


@pytest.mark.parametrize("label", [3, -1])
def test_labels_without_a_name_leave_the_evaluation_as_it_is(label):
    from mmpretrain.evaluation import Accuracy

    results = [{"pred_score": torch.eye(4)[0], "gt_label": torch.tensor([n])} for n in (0, label)]
    assert computed(Accuracy(), results) is None


def test_images_with_several_labels():
    from mmpretrain.evaluation import AveragePrecision

    scores = torch.tensor([[0.9, 0.1, 0.3], [0.8, 0.7, 0.3], [0.1, 0.9, 0.3]])
    truth = torch.tensor([[0, 0, 0], [1, 1, 0], [0, 0, 0]])
    results = [{"pred_score": s, "gt_score": t} for s, t in zip(scores, truth, strict=True)]
    found = computed(AveragePrecision(), results)
    assert found["name"] == "AP"
    assert found["values"] == {"ant": pytest.approx(0.5), "bee": pytest.approx(0.5), "cow": None}


def test_clips():
    from mmaction.evaluation import AccMetric

    metric = AccMetric(metric_options={"top_k_accuracy": {"topk": (1,)}})
    results = [{"pred": {"item": np.eye(3)[p]}, "label": t} for p, t in ((2, 2), (0, 2), (1, 1))]
    assert computed(metric, results)["values"] == {"ant": None, "bee": 1.0, "cow": 0.5}


def test_regions():
    from mmseg.evaluation import IoUMetric

    areas = lambda *values: torch.tensor(values, dtype=torch.float)  # noqa: E731
    both, either, said, there = areas(3, 1, 0), areas(6, 1, 0), areas(4, 1, 0), areas(5, 1, 0)
    found = computed(IoUMetric(), [(both, either, said, there)] * 2)
    assert found == {"name": "IoU", "values": {"ant": 0.5, "bee": 1.0, "cow": None}}


def test_boxes_of_voc():
    """Of ant one object is found and one is not, after a false one; of bee all are; cow does not occur."""
    from mmdet.evaluation.metrics import VOCMetric, voc_metric

    before, box, far = voc_metric.eval_map, [0.0, 0.0, 9.0, 9.0], [50.0, 50.0, 59.0, 59.0]
    nothing = np.zeros((0, 5), dtype=np.float32)
    ants = np.array([[*far, 0.9], [*box, 0.8]], dtype=np.float32)
    truth = {"bboxes": np.array([box, [20.0, 20.0, 29.0, 29.0], far], dtype=np.float32), "labels": np.array([0, 0, 1])}
    ignored = {"bboxes_ignore": np.zeros((0, 4), dtype=np.float32), "labels_ignore": np.zeros(0, dtype=int)}
    bees = np.array([[*far, 0.7]], dtype=np.float32)
    metric = VOCMetric(iou_thrs=[0.5, 0.75], eval_mode="area")
    found = computed(metric, [({**truth, **ignored}, [ants, bees, nothing])])
    assert found == {"name": "box AP", "values": {"ant": 0.25, "bee": 1.0, "cow": None}}
    assert voc_metric.eval_map is before


def test_a_metric_that_is_not_known_and_data_without_names():
    from mmpretrain.evaluation import Accuracy, SingleLabelMetric

    assert ClassFigures([SingleLabelMetric()]).found() is None
    metric = Accuracy()
    metric.dataset_meta = {}
    figures = ClassFigures([metric])
    metric.compute_metrics([{"pred_score": torch.eye(3)[0], "gt_label": torch.tensor([0])}])
    assert figures.found() is None


def test_the_table_has_the_lowest_first():
    found = {"name": "IoU", "values": {"a": 0.5, "bb": None, "c": 0.25, "d": 1.0}}
    want = ["class       IoU", "c       25.00 %", "a       50.00 %", "d      100.00 %", "bb         none"]
    assert class_lines(found) == want
    assert class_lines(found, most=1) == [*want[:2], "... and 3 classes above, in result.json"]
    assert class_lines(None) == []
