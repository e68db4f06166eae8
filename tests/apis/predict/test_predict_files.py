"""The word ``predict``: table, JSON, CSV, pictures, and data sets to train on."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from rich.console import Console

from vpeft.apis.commands.words.run.predict import main
from vpeft.apis.predict.auto_label import AutoLabel
from vpeft.apis.predict.files import Answered, print_table
from vpeft.apis.predict.inputs import FileNames
from vpeft.apis.predict.predictor import Predictor
from vpeft.apis.predict.results import ClassPrediction
from vpeft.core.datasets.own.recognise import recognise_data
from vpeft.core.trained.run import open_run
from vpeft.errors import UserError


def files_of(folder):
    data = open_run(folder).dataset()
    return [data.get_data_info(i)["img_path"] for i in range(len(data))]


def test_a_broken_image_is_named_and_the_others_go_on(folder_of, digits, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    given = [str(digits), str(tmp_path / "broken.png")]
    out = tmp_path / "out"
    options = ["--json", str(out / "all.json"), "--csv", str(out / "all.csv"), "--draw", str(out), "--top", "2"]
    assert main([str(folder_of("classes")), *given, *options, "--device", "cpu"]) == 1
    said = capsys.readouterr()
    assert "broken.png is truncated or no image" in said.err
    assert "0.png" in said.out
    stored = json.loads((out / "all.json").read_text())
    assert [len(one["classes"]) for one in stored["predictions"]] == [2] * 6
    assert stored["failed"][0]["file"].endswith("broken.png")
    rows = list(csv.DictReader((out / "all.csv").open()))
    assert len(rows) == 12
    assert float(rows[0]["score"]) == pytest.approx(stored["predictions"][0]["classes"][0]["score"])
    assert sorted(file.name for file in out.glob("*.png")) == [f"{i}.png" for i in range(6)]
    assert Image.open(out / "0.png").size[0] == 320


@pytest.mark.slow
def test_a_fresh_process_predicts(folder_of, digits):
    """What a session has imported before must not matter."""
    command = [sys.executable, "-m", "vpeft", "predict", str(folder_of("classes")), str(digits), "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)["predictions"]) == 6


def test_a_table_of_many_images_is_cut(capsys):
    found = Answered(False)
    for number in range(103):
        found.add(ClassPrediction(f"{number}.png", [0], ["cat"], [0.5], None))
    print_table(found, Console())
    said = capsys.readouterr().out
    assert "99.png" in said
    assert "100.png" not in said
    assert "and 3 images more" in said


def test_json_and_csv_on_the_standard_output_stand_alone(folder_of, digits, capsys):
    assert main([str(folder_of("classes")), str(digits / "0.png"), "--json", "-", "--device", "cpu"]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 1
    assert main([str(folder_of("classes")), str(digits / "0.png"), "--csv", "-", "--top", "2", "--device", "cpu"]) == 0
    assert len(list(csv.DictReader(capsys.readouterr().out.splitlines()))) == 2
    with pytest.raises(UserError, match="both for the standard output"):
        main([str(folder_of("classes")), str(digits), "--csv", "-", "--json", "-", "--device", "cpu"])


def test_class_folders_are_written(folder_of, opened, digits, tmp_path, capsys):
    out = tmp_path / "labelled"
    arguments = [str(folder_of("classes")), str(digits), "--auto-label", str(out), "--device", "cpu"]
    found = opened("classes").predict(digits)
    least = sorted(one.scores[0] for one in found)[3]
    assert main([*arguments, "--threshold", str(least)]) == 0
    assert "3 written, 3 left out" in capsys.readouterr().out
    written = {file.name: file.parent.name for file in out.rglob("*.png")}
    assert written == {f"{i}.png": one.classes[0] for i, one in enumerate(found) if one.scores[0] >= least}
    with pytest.raises(UserError, match="holds something already"):
        main(arguments)
    with pytest.raises(UserError, match=r"nothing has a score of 1\.0 or more"):
        main([*arguments[:3], str(tmp_path / "none"), "--device", "cpu", "--threshold", "1"])


def test_label_maps_are_written_and_drawn(folder_of, opened, tmp_path):
    files = files_of(folder_of("maps"))
    out, drawn = tmp_path / "labelled", tmp_path / "drawn"
    arguments = [str(folder_of("maps")), *files, "--auto-label", str(out), "--draw", str(drawn), "--device", "cpu"]
    assert main([*arguments, "--threshold", "0.3", "--csv", str(tmp_path / "a.csv")]) == 0
    assert (out / "classes.txt").read_text().split() == list(opened("maps").classes)
    one = opened("maps").predict(files[:4])[0]
    label_map = np.asarray(Image.open(out / "masks" / "0000.png"))
    assert np.array_equal(label_map == 255, (one.confidence < 0.3).numpy())
    assert np.array_equal(label_map[label_map != 255], one.label_map.numpy()[label_map != 255])
    assert (out / "images/0000.png").read_bytes() == Path(files[0]).read_bytes()
    assert len(list(drawn.glob("*.png"))) == 6
    again = recognise_data(out)
    assert (again.family, len(again.samples), list(again.classes)) == ("segmentation", 6, list(opened("maps").classes))
    shares = [float(row["share"]) for row in csv.DictReader((tmp_path / "a.csv").open()) if row["file"] == files[0]]
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["boxes", pytest.param("masks", marks=pytest.mark.slow)])
def test_boxes_are_written_as_coco(kind, folder_of, opened, tmp_path, capsys):
    files = files_of(folder_of(kind))
    out = tmp_path / "labelled"
    arguments = [str(folder_of(kind)), *files, "--auto-label", str(out), "--draw", str(tmp_path / "drawn")]
    assert main([*arguments, "--threshold", "0.4", "--device", "cpu"]) == 0
    coco = COCO(str(out / "annotations.json"))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(opened(kind).classes)
    found = [one for one in opened(kind).predict(files, threshold=0.4) if len(one.boxes)]
    sizes = torch.cat([one.boxes[:, 2:] - one.boxes[:, :2] for one in found])
    assert len(coco.anns) == int((sizes.prod(1) > 0).sum())  # a box without an area is no label
    first = coco.loadAnns(coco.getAnnIds(1))
    left, top, right, bottom = found[0].boxes[0].tolist()
    assert first[0]["bbox"] == pytest.approx([left, top, right - left, bottom - top])
    assert coco.cats[first[0]["category_id"]]["name"] == found[0].classes[0]
    if kind == "masks":
        assert np.array_equal(coco.annToMask(first[0]), found[0].masks[0].numpy())
    assert all((out / one["file_name"]).is_file() for one in coco.imgs.values())
    again = recognise_data(out)
    assert (again.family, len(again.samples)) == ("detection" if kind == "boxes" else "instances", len(found))


def test_several_labels_are_a_table(opened, tmp_path, digits):
    class Several(Predictor):
        label_threshold = 0.5

    run = opened("classes")
    several = Several(run.file, run.model, ("cat", "dog"), "classification", None, run.cfg)
    writer = AutoLabel(several, tmp_path / "out", 0.6)
    for scores in ([0.9, 0.7], [0.55, 0.1], [0.8, 0.5]):
        found = ClassPrediction(str(digits / "0.png"), [0, 1], ["cat", "dog"], scores, None)
        writer.add(found)
    writer.finish()
    assert (tmp_path / "out/labels.csv").read_text() == "path,label\nimages/0.png,cat|dog\nimages/0-2.png,cat\n"
    assert (writer.written, writer.left_out) == (2, 1)
    again = recognise_data(tmp_path / "out/labels.csv")
    assert (again.classes, again.multi_label) == (("cat", "dog"), True)
    assert [one.labels for one in again.samples] == [(0, 1), (0,)]


def test_a_class_that_can_be_no_folder_is_refused(opened, tmp_path):
    run = opened("classes")
    strange = Predictor(run.file, run.model, ("cat", "a/b"), "classification", None, run.cfg)
    with pytest.raises(UserError, match="'a/b' can be no folder of its own"):
        AutoLabel(strange, tmp_path / "out")


def test_names_of_files_do_not_meet():
    names = FileNames()
    given = ["x/a.jpg", "y/A.jpg", "z/a.png", "film.mp4#12", "film.mp4", "clips/b"]
    assert [names.of(name) for name in given] == ["a.jpg", "A-2.jpg", "a-3.png", "film_000012.png", "film.mp4", "b"]
