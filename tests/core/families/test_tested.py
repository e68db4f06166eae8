"""What a result keeps of its test images."""

import numpy as np
import torch

from vpeft.core.families.per_class import ClassFigures
from vpeft.core.families.tested import answers_kept, units_of_test


def test_every_image_by_itself():
    right = [True, False, True, True, False, False, True, True, True]
    kept = answers_kept(right)
    assert kept == {"images": 9, "right": "b380"}
    answers, of, names = units_of_test(kept)
    assert answers.tolist() == right
    assert of.tolist() == [1] * 9
    assert names == ()


def test_patches_by_their_regions():
    kept = answers_kept([True, False, True, True], ["b 0 0", "a 0 8", "b 0 0", "a 0 8"])
    assert kept == {"images": 4, "regions": {"b 0 0": [2, 2], "a 0 8": [1, 2]}}
    answers, of, names = units_of_test(kept)
    assert (answers.tolist(), of.tolist(), names) == ([1, 2], [2, 2], ("a 0 8", "b 0 0"))
    assert units_of_test(None) is None


def test_answers_are_those_of_the_metric():
    from mmaction.evaluation import AccMetric
    from mmpretrain.evaluation import Accuracy

    scores = torch.eye(3)[[0, 1, 1, 1]]
    images = [{"pred_score": s, "gt_label": torch.tensor([n])} for s, n in zip(scores, [0, 0, 1, 1], strict=True)]
    clips = [{"pred": {"item": np.eye(3)[p]}, "label": t} for p, t in ((2, 2), (0, 2), (1, 1))]
    options = {"top_k_accuracy": {"topk": (1,)}}
    found = []
    for metric, results in ((Accuracy(), images), (AccMetric(metric_options=options), clips)):
        figures = ClassFigures([metric])
        metric.compute_metrics(results)
        found.append(figures.right())
    assert found == [[True, False, True, True], [True, False, True]]
