"""Boards in plain words."""

import pytest
from support.results import result, store

from vpeft.apis.leaderboard.boards import boards
from vpeft.apis.leaderboard.names import short_titles, title
from vpeft.apis.results.files import read_results
from vpeft.core.families.metrics import MAIN_METRICS, METRIC_WORDS, metric_name


def dense(task, metric, **changes):
    main = {"name": metric, "value": 0.4}
    return {
        **result("Mona", "digits", 0, 0.4),
        "suite": None,
        "group": None,
        "task": task,
        "main_metric": main,
        **changes,
    }


@pytest.mark.parametrize(
    ("task", "metric", "words"),
    [
        ("nano_swin_detection", "pascal_voc/mAP", "Object detection: nano Swin"),
        ("nano_swin_instances", "coco/segm_mAP", "Instance segmentation: nano Swin"),
        ("nano_vit_video", "acc/top1", "Video classification: nano ViT"),
        ("swin-l_ade20k", "mIoU", "Semantic segmentation: Swin-L ADE20K"),
        ("detection", "coco/bbox_mAP", "Object detection: detection"),
        ("<b>x", "my/metric", "<b>x"),  # a metric and a name that nobody knows stay as they are
    ],
)
def test_a_board_in_words(tmp_path, task, metric, words):
    store(tmp_path, dense(task, metric))
    (board,) = boards(read_results(tmp_path))
    assert title(board) == words


def test_short_titles_say_as_little_as_tells_boards_apart(tmp_path):
    few = result("LoRA", "digits", 0, 0.5, variant={"shots": 5})
    tensors = result("SSF", "digits", 0, 0.6, data_variant="tensors")
    store(tmp_path, result("LoRA", "digits", 0, 0.9), few, tensors, dense("nano_vit_video", "acc/top1"))
    found = boards(read_results(tmp_path))
    names = {board.key.title(): short for board, short in zip(found, short_titles(found), strict=True)}
    assert names == {
        "mini (embedded)": "Image classification, mini-benchmark, embedded, all images",
        "mini (embedded, 5 training images a class)": "Image classification, mini-benchmark, embedded, "
        "5 images a class",
        "mini (tensors)": "Image classification, mini-benchmark, tensors",
        "nano_vit_video (embedded)": "Video classification",
    }
    assert title(found[0]) == "Image classification: mini-benchmark"


def test_every_main_metric_has_words():
    assert METRIC_WORDS.keys() == MAIN_METRICS.keys()
    assert metric_name("mIoU") == "mean IoU"
    assert metric_name("other") == "other"
