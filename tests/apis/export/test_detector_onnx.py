"""Detectors as ONNX: what onnxruntime finds is what mmdet finds."""

import json

import pytest
import torch
from support.families import family_run

import vpeft
from vpeft.apis.export import detector_onnx
from vpeft.apis.export.detector_onnx import _set_threshold
from vpeft.apis.export.detectors import detector_program
from vpeft.apis.export.plain import example_images
from vpeft.apis.export.run import export_run
from vpeft.errors import UserError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "names"), [("boxes", ["boxes", "scores", "labels"]), ("masks", [*"bsl", "masks"])])
def test_a_detector_finds_the_same(kind, names, tmp_path):
    from mmdet.structures import DetDataSample

    folder, file = family_run(tmp_path, kind), tmp_path / "model.onnx"
    said = export_run(folder, "onnx", file)
    assert "merged" in said[0]
    assert "onnxruntime finds mmdet's boxes" in said[1]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert len(session.get_outputs()) == len(names)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(vpeft.load(folder).classes)
    assert json.loads(facts["size"]) == [64, 64]
    run = vpeft.load(folder)
    images = example_images(run, 1, seed=40)
    meta = {"img_shape": (64, 64), "ori_shape": (64, 64), "batch_input_shape": (64, 64), "scale_factor": (1.0, 1.0)}
    with torch.no_grad():
        (found,) = run.model.eval().predict(images, [DetDataSample(metainfo=meta)], rescale=False)
    boxes, scores, labels, *masks = session.run(None, {"images": images.numpy()})
    assert len(boxes) == len(found.pred_instances) > 3
    torch.testing.assert_close(torch.from_numpy(scores), found.pred_instances.scores, atol=1e-3, rtol=0)
    same = torch.from_numpy(labels) == found.pred_instances.labels
    assert same.float().mean() > 0.9  # those of one score may have changed places
    far = (torch.from_numpy(boxes) - found.pred_instances.bboxes).abs().amax(1)
    assert far[same].median() < 0.05
    if masks:
        assert masks[0].shape == (len(boxes), 64, 64)
        assert (masks[0] == found.pred_instances.masks.numpy()).mean() > 0.99
    program = onnx.load(file)
    _set_threshold(program, 1.1)
    nothing = onnxruntime.InferenceSession(program.SerializeToString()).run(None, {"images": images.numpy()})
    assert [one.shape[0] for one in nothing] == [0] * len(names)


@pytest.mark.slow
def test_a_program_that_finds_others_is_not_kept(tmp_path, monkeypatch):
    folder = family_run(tmp_path, "boxes")
    monkeypatch.setattr(detector_onnx, "_set_threshold", lambda program, value: _set_threshold(program, 0.9))
    with pytest.raises(UserError, match=r"its boxes are not mmdet's: \d+ of \d+ have no like\. Nothing is kept"):
        export_run(folder, "onnx", tmp_path / "model.onnx")
    with pytest.raises(UserError, match="--dynamic-size: a detector's anchors are of one size"):
        export_run(folder, "onnx", tmp_path / "model.onnx", dynamic_size=True)
    with pytest.raises(UserError, match="--size 96 100: this detector takes multiples of 32 pixels"):
        export_run(folder, "onnx", tmp_path / "model.onnx", size=(96, 100))
    assert not list(tmp_path.glob("*.onnx"))
    monkeypatch.undo()
    assert "one image of 96 x 64" in export_run(folder, "onnx", tmp_path / "model.onnx", size=(96, 64))[1]


def test_other_heads_are_refused():
    from mmdet.models import FCOSHead, YOLOXHead

    class Detector(torch.nn.Module):
        def __init__(self, head):
            super().__init__()
            self.bbox_head = head

        def extract_feat(self, images):
            return (images,)

    with pytest.raises(UserError, match="bbox_head, a YOLOXHead, answers in its own way"):
        detector_program(Detector(YOLOXHead(2, 3, feat_channels=4)), 0.1)
    norm = {"type": "BN"}
    several = detector_program(Detector(FCOSHead(2, 3, feat_channels=4, strides=[1], norm_cfg=norm)), 0.1)
    with pytest.raises(UserError, match=r"FCOSHead answers more than scores and boxes \(of 3 kinds\)"):
        several(torch.rand(1, 3, 8, 8))
