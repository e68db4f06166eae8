"""What a run says of files is what its test says of them, in every family."""

import copy

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image

from vpeft.apis.predict.inputs import given
from vpeft.apis.predict.predictor import Predictor
from vpeft.apis.predict.results import FailedInput
from vpeft.core.trained.run import open_run
from vpeft.errors import UserError

slow = pytest.mark.slow


def of_the_test(folder):
    """Files and data samples of the run's own test loop, in its batches."""
    run = open_run(folder)
    data = run.dataset()
    infos = [data.get_data_info(i) for i in range(len(data))]
    return [one.get("img_path") or one.get("filename") for one in infos], list(run.outputs(run.model(), size=4))


def test_classes_of_files_are_those_of_the_test(folder_of, opened, digits):
    _, samples = of_the_test(folder_of("classes"))
    found = opened("classes").predict(digits)
    assert [one.name for one in found] == [str(digits / f"{i}.png") for i in range(6)]
    assert all(torch.equal(one.all_scores, sample.pred_score) for one, sample in zip(found, samples, strict=True))
    assert found[0].labels == samples[0].pred_score.argsort(descending=True)[:5].tolist()


@pytest.mark.parametrize("kind", ["maps", pytest.param("clips", marks=slow)])
def test_maps_and_clips_are_those_of_the_test(kind, folder_of, opened):
    files, samples = of_the_test(folder_of(kind))
    found = opened(kind).predict(files)
    for one, sample in zip(found, samples, strict=True):
        if kind == "clips":
            assert torch.equal(one.all_scores, sample.pred_scores.item)
        else:
            assert torch.equal(one.label_map, sample.pred_sem_seg.data[0])
            assert sum(one.shares) == pytest.approx(1)
            assert one.classes[0] in opened(kind).classes


@pytest.mark.parametrize("kind", ["boxes", pytest.param("masks", marks=slow)])
def test_boxes_and_masks_are_those_of_the_test(kind, folder_of, opened):
    files, samples = of_the_test(folder_of(kind))
    found = opened(kind).predict(files, threshold=0)
    assert sum(len(one.boxes) for one in found) > 6
    for one, sample in zip(found, samples, strict=True):
        order = sample.pred_instances.scores.argsort(descending=True, stable=True)
        assert torch.equal(one.boxes, sample.pred_instances.bboxes[order])
        assert torch.equal(torch.tensor(one.labels), sample.pred_instances.labels[order])
        assert (one.masks is None) == (kind == "boxes")
        if kind == "masks":
            assert torch.equal(one.masks, sample.pred_instances.masks[order])
    least = opened(kind).predict(files, threshold=0.5)
    assert all(score >= 0.5 for one in least for score in one.scores)


def test_arrays_are_read_as_files_of_their_pixels(opened, digits):
    run = opened("classes")
    rgb = np.asarray(Image.open(digits / "0.png").convert("RGB"))
    grey = Image.open(digits / "0.png").convert("L")
    first = run.predict([digits / "0.png"])[0]
    assert torch.equal(run.predict(rgb)[0].all_scores, first.all_scores)
    assert torch.equal(run.predict([Image.fromarray(rgb)])[0].all_scores, first.all_scores)
    deep = np.asarray(grey).astype(np.uint16) * 257
    two = run.predict([np.asarray(grey), deep])
    assert torch.equal(two[0].all_scores, two[1].all_scores)


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda image: image.convert("L"), {}),
        (lambda image: Image.merge("RGBA", (*image.split(), image.convert("L"))), {}),
        (lambda image: image.transpose(Image.Transpose.ROTATE_90), {"turned": 6}),
    ],
    ids=["grey", "alpha", "turned by EXIF"],
)
def test_files_of_other_forms(change, options, opened, digits, tmp_path):
    image = Image.open(digits / "3.png").convert("RGB")
    exif = Image.Exif()
    if "turned" in options:
        exif[0x0112] = options["turned"]
    change(image).save(tmp_path / "one.png", exif=exif)
    want = np.asarray(image.convert("L").convert("RGB") if change(image).mode == "L" else image)
    one, same = opened("classes").predict([tmp_path / "one.png", want])
    assert torch.equal(one.all_scores, same.all_scores)


def test_what_cannot_be_read_stands_in_its_place(opened, digits, tmp_path):
    (tmp_path / "broken.png").write_bytes((digits / "0.png").read_bytes()[:60])
    given = [digits / "0.png", tmp_path / "broken.png", tmp_path / "away.png", digits / "1.png"]
    found = list(opened("classes").stream(given))
    assert [isinstance(one, FailedInput) for one in found] == [False, True, True, False]
    assert "broken.png is truncated or no image" in found[1].reason
    assert "away.png does not exist" in found[2].reason
    with pytest.raises(UserError, match=r"broken\.png is truncated"):
        opened("classes").predict(given)


def test_a_strange_array_is_named(opened):
    found = list(opened("classes").stream([np.zeros((4, 4, 7), np.uint8), np.zeros((8, 8), np.float32)]))
    assert "array 0 is uint8 (4, 4, 7): give uint8" in found[0].reason
    assert "array 1 has pixels of PIL's mode 'F'" in found[1].reason
    with pytest.raises(UserError, match="input 0 is a int: give paths"):
        opened("classes").predict([3])


def test_patterns_and_folders(opened, digits, tmp_path):
    run = opened("classes")
    assert len(run.predict(str(digits / "[0-3].png"))) == 4
    with pytest.raises(UserError, match="holds no image"):
        run.predict(tmp_path)
    with pytest.raises(UserError, match="fits no file"):
        run.predict(str(tmp_path / "*.png"))
    with pytest.raises(UserError, match=r"batch_size=0.*whole numbers from 1 on"):
        run.predict(digits, batch_size=0)


def test_clips_of_frames_are_folders(tmp_path):
    for clip, count in (("b", 2), ("a10", 12), ("a9", 3)):
        (tmp_path / clip).mkdir()
        for number in range(count):
            (tmp_path / clip / f"{number}.png").touch()
    found = list(given([tmp_path, tmp_path / "b/0.png"], clips=True, frames=True))
    assert [one.name for one in found[:3]] == [str(tmp_path / name) for name in ("a9", "a10", "b")]
    assert [file.rpartition("/")[2] for file in found[1].frames] == [f"{number}.png" for number in range(12)]
    assert "is no folder: the clips of this run are folders of frames" in found[3].fault
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no folder of frames"):
        list(given(tmp_path / "none", frames=True))


def test_frames_of_a_video(opened, tmp_path):
    av = pytest.importorskip("av")
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for _ in range(7):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (32, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    found = opened("classes").predict(tmp_path / "film.mp4", every=3)
    assert [one.name.rpartition("#")[2] for one in found] == ["0", "3", "6"]
    (tmp_path / "film.mp4").write_bytes(b"no film")
    assert "cannot be decoded from frame 0 on" in next(opened("classes").stream(tmp_path / "film.mp4")).reason


def test_several_labels_are_those_above_the_threshold(opened, digits):
    one = opened("classes")
    model = copy.deepcopy(one.model)
    torch.manual_seed(1)
    model.head = MODELS.build({"type": "mmpretrain.MultiLabelLinearClsHead", "num_classes": 3, "in_channels": 64})
    torch.nn.init.normal_(model.head.fc.weight)
    run = Predictor(one.file, model, ("cat", "dog", "owl"), "classification", None, one.cfg)
    assert run.label_threshold == 0.5
    for found in run.predict(digits):
        assert sorted(found.labels) == (found.all_scores >= 0.5).nonzero().flatten().tolist()
    least = float(torch.stack([found.all_scores for found in run.predict(digits)]).median())
    shown = [score for found in run.predict(digits, threshold=least) for score in found.scores]
    assert min(shown) == pytest.approx(least)


@pytest.mark.parametrize(
    ("kind", "threshold", "says"),
    [
        ("classes", 0.5, r"^threshold=0\.5: classification with one answer has none: leave it out\.$"),
        ("boxes", float("nan"), "^threshold=nan: a score is from 0 to 1"),
        ("boxes", 2, "^threshold=2: a score is from 0 to 1"),
    ],
)
def test_a_threshold_that_cuts_nothing(opened, digits, kind, threshold, says):
    with pytest.raises(UserError, match=says):
        opened(kind).predict(digits, threshold=threshold)
