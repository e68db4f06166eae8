"""Metrics of every kind go into a result as JSON holds them."""

import json

import numpy as np
import pytest
import torch

from vpeft.core.families.metrics import main_metric
from vpeft.core.trained.result import metric_json, result_summary
from vpeft.errors import UserError
from vpeft.files import write_json

METRICS = {
    "accuracy/top1": torch.tensor(50.0),
    "count": 3,
    "single-label/recall_classwise": [0.5, np.float32(0.25), float("nan")],
    "confusion_matrix/result": torch.tensor([[1, 2], [3, 4]]),
    "array": np.array([[1.5, np.inf], [-np.inf, 0.0]]),
    "text": "43.1 48.2",
    "nothing": None,
    "flag": True,
    "table": {"cat": (1, np.int64(2)), 7: {"x": np.array(5)}},
    "object": complex(1, 2),
}
PLAIN = {
    "accuracy/top1": 50.0,
    "count": 3.0,
    "single-label/recall_classwise": [0.5, 0.25, None],
    "confusion_matrix/result": [[1.0, 2.0], [3.0, 4.0]],
    "array": [[1.5, None], [None, 0.0]],
    "text": "43.1 48.2",
    "nothing": None,
    "flag": 1.0,
    "table": {"cat": [1.0, 2.0], "7": {"x": 5.0}},
    "object": "(1+2j)",
}


def test_metrics_are_written_as_they_are(tmp_path):
    write_json(tmp_path / "result.json", metric_json(METRICS))
    assert json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail) == PLAIN


def test_what_is_no_json_is_not_written(tmp_path):
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(UserError, match=r"x\.json is not written: it would be no JSON"):
        write_json(tmp_path / "x.json", {"a": [float("nan")]})
    assert (tmp_path / "x.json").read_text() == "1\n"


@pytest.mark.parametrize("value", [float("nan"), torch.tensor(float("inf")), "43.x", [1.0, 2.0]])
def test_a_main_metric_that_is_no_number_has_no_value(value):
    metric = main_metric({"accuracy/top1": value})
    assert metric == {"name": "accuracy/top1", "value": None}
    result = {"main_metric": metric, "methods": [{"type": "LoRA"}], "task": "digits", "ppt": None}
    result |= {"parameters": {"trainable_without_head": 1}, "checkpoint": "x", "checkpoint_bytes": 1}
    assert "accuracy/top1               no finite number" in result_summary(result, "run")


def test_a_main_metric_is_in_one_scale():
    assert main_metric({"accuracy/top1": np.float64(25.0)}) == {"name": "accuracy/top1", "value": 0.25}
    assert main_metric({"other": 1.0}) is None
