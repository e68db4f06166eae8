"""A user's own boxes, masks, label maps and clips by the command alone: look, train, predict, label, export, test."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support import own
from support.user import here

import vpeft

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(capsys, data, *options):
    """What the look at the data says, what the training ends in, and its result."""
    here("data", data)
    look = capsys.readouterr().out
    assert not here("train", data, "--work-dir", "run", *options)
    out, err = capsys.readouterr()
    assert out.startswith(look.splitlines()[0])
    noise = ("loading annotations", "Average Precision", "UserWarning", "The prefix is not set", "error:", "warning:")
    assert not [text for text in noise if text in out + err]
    shown = [line for line in err.splitlines() if line.startswith("data ")]
    assert re.fullmatch(r"data +\d+ of training, (\d+ of validation), (\d classes)", shown[0])
    assert shown[1].split(" of ")[1:] == shown[0].split(" of ")[2:]
    return look, out, json.loads(Path("run/result.json").read_text())


def predicted(capsys, *images, threshold=0.0):
    """The predictions by file, from ``--json``; pictures and a data set are written beside."""
    options = ("--json", "found.json", "--draw", "drawn", "--auto-label", "labelled", "--threshold", threshold)
    assert here("predict", "run", *images, *options) == 0
    capsys.readouterr()
    return {one["file"]: one for one in json.loads(Path("found.json").read_text())["predictions"]}


def exported(capsys, to, out):
    """What the export says; what it has written answers as the run does."""
    assert not here("export", "run", "--to", to, "--out", out)
    said = capsys.readouterr().out
    assert "differs by" in said
    assert "load it: " in said
    return said


def again(capsys):
    """The lines of ``vpeft test RUN``, whose figures are those of the training's end."""
    before = json.loads(Path("run/result.json").read_text())
    assert not here("test", "run")
    after = json.loads(Path("run/result.json").read_text())
    for key in ("main_metric", "per_class", "eval_split", "validation", "tested"):
        assert after[key] == before[key]
    return capsys.readouterr().out.splitlines()


def test_boxes(home, capsys):
    file = own.coco(home / "boxes", each=12)
    look, out, result = trained(capsys, "boxes/instances.json", "--epochs", 4)
    assert "COCO file of boxes: detection, 24 images (train 19, val 5), 2 classes" in look
    assert result["main_metric"]["name"] == "coco/bbox_mAP"
    assert set(result["per_class"]["values"]) == {"red", "blue"}
    assert result["per_class"]["name"] == "box AP"
    mean = np.mean(list(result["per_class"]["values"].values()))
    assert mean == pytest.approx(result["main_metric"]["value"], abs=1.1e-3)
    assert not [name for name in result["metrics"] if name.endswith("_precision")]
    lines = again(capsys)
    assert lines[1].split() == ["class", "box", "AP"]
    assert lines[1:4] == out.splitlines()[-5:-2]

    found = predicted(capsys, *(f"boxes/images/{n}.png" for n in range(4)), threshold=0.05)
    assert {box["class"] for one in found.values() for box in one["boxes"]} <= {"red", "blue"}
    labels = json.loads((home / "labelled/annotations.json").read_text())
    assert [one["name"] for one in labels["categories"]] == ["red", "blue"]
    assert len(labels["annotations"]) == sum(len(one["boxes"]) for one in found.values()) > 0
    here("data", "labelled")
    assert capsys.readouterr().out.startswith("COCO file of boxes: detection, ")

    exported(capsys, "mmdet", "boxes.pth")
    from mmdet.apis import inference_detector, init_detector

    theirs = inference_detector(init_detector("boxes.py", "boxes.pth", device="cpu"), "boxes/images/0.png")
    (ours,) = vpeft.load("run").predict("boxes/images/0.png", threshold=0.0)
    assert torch.allclose(theirs.pred_instances.scores, torch.tensor(ours.scores), atol=1e-4)
    assert "onnxruntime finds mmdet's boxes (" in exported(capsys, "onnx", "boxes.onnx")
    with pytest.raises(vpeft.UserError, match="take --to onnx, or --to mmdet"):
        here("export", "run", "--to", "torchscript", "--out", "boxes.pt")
    assert file.is_file()


def test_masks_of_a_yolo_folder(home, capsys):
    own.yolo(home / "yolo", each=8, outlines=True)
    look, _, result = trained(capsys, "yolo", "--epochs", 3)
    assert "YOLO folder of outlines: instances, 16 images (train 10, val 6), 2 classes" in look
    assert result["main_metric"] is None or result["main_metric"]["name"] == "coco/segm_mAP"
    if result["main_metric"]:
        assert result["per_class"]["name"] == "mask AP"
    found = predicted(capsys, "yolo/images/val", threshold=0.02)
    assert len(found) == 6
    labels = json.loads((home / "labelled/annotations.json").read_text())
    assert all(one["segmentation"]["counts"] for one in labels["annotations"])
    here("data", "labelled")
    assert capsys.readouterr().out.startswith("COCO file of masks: instances, ")
    said = exported(capsys, "mmdet", "masks.pth")
    assert "mmdet.apis.init_detector('masks.py', 'masks.pth', device='cpu')" in said
    assert "load it: boxes, scores, labels, masks = " in exported(capsys, "onnx", "masks.onnx")


def test_label_maps_with_pixels_of_no_class(home, capsys):
    own.maps(home / "maps", 24)
    for file in (home / "maps/masks").iterdir():
        label_map = np.array(Image.open(file))
        label_map[:4] = 255
        Image.fromarray(label_map).save(file)
    look, _, result = trained(capsys, "maps", "--epochs", 4)
    assert "images and label maps: segmentation, 24 images (train 19, val 5), 3 classes" in look
    assert result["main_metric"]["name"] == "mIoU"
    assert result["main_metric"]["value"] > 0.6
    lines = again(capsys)
    assert lines[1].split() == ["class", "IoU"]
    assert lines[4].startswith("ground ")  # the highest

    found = predicted(capsys, *(f"maps/images/{n}.jpg" for n in range(6)), threshold=0.6)
    assert {one["class"] for image in found.values() for one in image["classes"]} == {"ground", "red", "blue"}
    truth, said = (np.array(Image.open(f"{folder}/masks/0.png")) for folder in ("maps", "labelled"))
    sure = (truth != 255) & (said != 255)
    assert sure.mean() > 0.8
    assert (truth == said)[sure].mean() > 0.9
    assert (home / "labelled/classes.txt").read_text() == "ground\nred\nblue\n"
    assert np.array(Image.open("drawn/0.png")).shape == (320 + 48, 320, 3)
    assert "onnxruntime differs by" in exported(capsys, "onnx", "maps.onnx")
    exported(capsys, "mmseg", "maps.pth")
    from mmseg.apis import inference_model, init_model

    model = init_model("maps.py", "maps.pth", device="cpu")
    assert model.dataset_meta["classes"] == ("ground", "red", "blue")
    theirs = inference_model(model, "maps/images/0.jpg").pred_sem_seg.data[0]
    (ours,) = vpeft.load("run").predict("maps/images/0.jpg")
    assert torch.equal(theirs, ours.label_map)


def test_label_maps_without_names(home, capsys):
    own.maps(home / "maps", 12)
    (home / "maps/classes.txt").unlink()
    here("data", "maps")
    out = capsys.readouterr().out
    assert "no classes.txt names the classes: they are called 0 to 2" in out
    assert [line.split()[0] for line in out.splitlines()[3:6]] == ["0", "1", "2"]


@pytest.mark.parametrize("kind", ["frames", "videos"])
def test_clips(home, capsys, kind):
    if kind == "videos":
        pytest.importorskip("av")
        pytest.importorskip("decord")
    data = own.frames(home / "frames") if kind == "frames" else own.videos(home)
    data = data.relative_to(home)
    look, _, result = trained(capsys, data, "--epochs", 2)
    assert f"folders of {kind} by class: video, 12 clips" in look
    assert result["main_metric"]["name"] == "acc/top1"
    assert list(result["per_class"]["values"]) == ["left", "right"]
    clips = sorted((data / "left").iterdir())
    found = predicted(capsys, *clips)
    assert list(found) == [str(clip) for clip in clips]
    assert {one["class"] for clip in found.values() for one in clip["classes"]} == {"left", "right"}
    best = {clip.name: found[str(clip)]["classes"][0]["class"] for clip in clips}
    assert all((home / "labelled" / name / clip).exists() for clip, name in best.items())
    said = exported(capsys, "mmaction", "clips.pth")
    assert "mmaction.apis.init_recognizer('clips.py', 'clips.pth', device='cpu')" in said
    loaded = vpeft.load("clips.pth").predict(str(clips[0]))
    assert loaded[0].scores == pytest.approx([one["score"] for one in found[str(clips[0])]["classes"]], abs=1e-4)


@pytest.mark.parametrize("method", ["aim", "lora"])
def test_clips_on_a_network_of_images(home, capsys, method):
    """Frames are images of their own, and AIM looks from one to the next; what merges is exported as a plain model."""
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), "vit.pth")
    own.frames(home / "clips", each=4, count=9)
    options = ("--model", "timm/test_vit", "--weights", "vit.pth", "--method", method, "--image-size", 32)
    _, out, result = trained(capsys, "clips", *options, "--epochs", 1)
    assert f"{method.upper() if method == 'aim' else 'LoRA'} on timm/test_vit" in out
    assert result["main_metric"]["name"] == "acc/top1"
    clips = sorted((home / "clips/left").iterdir())
    found = predicted(capsys, *clips)
    scores = [one["score"] for one in found[str(clips[0])]["classes"]]
    if method == "aim":
        with pytest.raises(vpeft.UserError, match="AIM cannot be merged into the weights"):
            here("export", "run", "--to", "mmaction", "--out", "clips.pth")
        return
    exported(capsys, "mmaction", "clips.pth")
    assert vpeft.load("clips.pth").predict(str(clips[0]))[0].scores == pytest.approx(scores, abs=1e-4)


def test_several_labels(home, capsys):
    own.csv_file(home / "several", each=8)
    look, _, result = trained(capsys, "several/labels.csv", "--epochs", 2)
    assert "3 classes, several classes an image" in look
    assert result["main_metric"]["name"] == "multi-label/mAP"
    mean = np.mean(list(result["per_class"]["values"].values()))
    assert mean == pytest.approx(result["main_metric"]["value"], abs=1e-4)
    found = predicted(capsys, "several/pictures", threshold=0.3)
    rows = (home / "labelled/labels.csv").read_text().splitlines()
    assert rows[0] == "path,label"
    named = {row.split(",")[0].split("/")[1]: row.split(",")[1].split("|") for row in rows[1:]}
    want = {file.split("/")[-1]: [one["class"] for one in image["classes"]] for file, image in found.items()}
    assert named == {file: names for file, names in want.items() if names}
    exported(capsys, "mmpretrain", "several.pth")
