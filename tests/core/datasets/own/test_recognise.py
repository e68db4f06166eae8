"""What a folder is, found out, and what of it is refused in one line."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from support import own

from vpeft.core.datasets.own.inspect import look_at_data
from vpeft.core.datasets.own.recognise import is_own_data, recognise_data
from vpeft.core.datasets.own.split import split_parts
from vpeft.errors import UserError

pytest.importorskip("mmdet")


def opened(path, family):
    seen = look_at_data(recognise_data(path, family))
    return split_parts(seen.data, seen.groups, 0.2, 0.0, 0)


def refused(path, words, family=None, read=False):
    """What is said of a folder, in one line."""
    with pytest.raises(UserError) as error:
        (opened if read else recognise_data)(path, family)
    said = str(error.value)
    assert "\n" not in said
    for word in words if isinstance(words, tuple) else (words,):
        assert word in said, said
    return said


@pytest.mark.parametrize(
    ("make", "kind", "family", "classes"),
    [
        (own.class_folder, "folders of classes", "classification", ("blue", "green", "red")),
        (own.csv_file, "CSV of paths and labels", "classification", ("blue", "green", "red")),
        (own.coco, "COCO file of boxes", "detection", ("red", "blue")),
        (lambda root: own.coco(root, masks=True).parent, "COCO file of masks", "instances", ("red", "blue")),
        (own.yolo, "YOLO folder of boxes", "detection", ("red", "blue")),
        (lambda root: own.yolo(root, outlines=True), "YOLO folder of outlines", "instances", ("red", "blue")),
        (own.maps, "images and label maps", "segmentation", ("ground", "red", "blue")),
        (own.frames, "folders of frames by class", "video", ("left", "right")),
    ],
)
def test_what_it_is(tmp_path, make, kind, family, classes):
    path = make(tmp_path / "data")
    data = recognise_data(path)
    assert (data.kind, data.family, data.classes) == (kind, family, classes)
    assert is_own_data(path)
    assert all(sample.path.exists() for sample in data.samples)
    assert len(data.samples) in (12, 18, 24)
    assert data.said().startswith(f"{kind}: {family}, {len(data.samples)} ")


def test_videos(tmp_path):
    pytest.importorskip("av")
    data = recognise_data(own.videos(tmp_path, each=1))
    assert (data.kind, data.family, len(data.samples)) == ("folders of videos by class", "video", 2)
    assert {fact.frames for fact in look_at_data(data).facts} == {12}


def test_labels_are_of_the_class_that_the_folder_names(tmp_path):
    data = recognise_data(own.class_folder(tmp_path, each=2))
    assert [(sample.path.parent.name, data.classes[sample.labels[0]]) for sample in data.samples] == [
        (name, name) for name in ("blue", "blue", "green", "green", "red", "red")
    ]


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "valid"), ("train", "validation"), ("train", "test")]
)
def test_parts_of_class_folders(tmp_path, names):
    for place, name in enumerate(names):
        own.class_folder(tmp_path / name, each=2, start=10 * place)
    data = recognise_data(tmp_path)
    parts = {"Training": "train", "valid": "val", "validation": "val"}
    assert {sample.part for sample in data.samples} == {parts.get(name, name) for name in names}


def test_numbered_classes_are_sorted_as_numbers(tmp_path):
    for name in ("10", "9", "1"):
        own.save(tmp_path / name / "a.png", own.picture(int(name), "red")[0])
    assert recognise_data(tmp_path).classes == ("1", "9", "10")


def test_names_with_spaces_signs_and_dots(tmp_path):
    for name in ("rose garden", "Äpfel 苹果", "a.b"):
        own.save(tmp_path / name / "ein bild, (1).png", own.picture(1, "red")[0])
        (tmp_path / name / "._hidden.png").write_bytes(b"remains of a system")
    own.save(tmp_path / ".cache" / "x.png", own.picture(1, "red")[0])
    data = recognise_data(tmp_path)
    assert set(data.classes) == {"rose garden", "Äpfel 苹果", "a.b"}
    assert len(data.samples) == 3


def test_empty_and_missing(tmp_path):
    refused(tmp_path / "nothing", ("does not exist", "expected is a folder of class folders"))
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", ("holds no images or videos in class folders", "expected is"))
    (tmp_path / "file.txt").write_text("x")
    refused(tmp_path / "file.txt", "is no CSV and no COCO file")


def test_one_class(tmp_path):
    refused(own.class_folder(tmp_path, colours=("red",)), "one class alone, 'red'")


def test_flat_folder_of_images(tmp_path):
    own.save(tmp_path / "a.png", own.picture(1, "red")[0])
    refused(tmp_path, ("holds 1 images or videos and no class folders", "expected is"))


def test_images_beside_class_folders(tmp_path):
    own.class_folder(tmp_path, each=1)
    own.save(tmp_path / "loose.png", own.picture(1, "red")[0])
    refused(tmp_path, ("beside the 3 class folders", "loose.png"))


def test_images_and_videos(tmp_path):
    own.class_folder(tmp_path, each=1)
    (tmp_path / "red" / "a.mp4").write_bytes(b"x")
    refused(tmp_path, ("3 images", "1 videos", "give a folder of one kind"))


def test_class_that_is_not_trained(tmp_path):
    own.class_folder(tmp_path / "train", each=1, colours=("red", "blue"))
    own.class_folder(tmp_path / "val", each=1, start=5)
    refused(tmp_path, "the class 'green' is not in train/")


def test_parts_without_train_or_twice(tmp_path):
    own.class_folder(tmp_path / "a" / "val", each=1)
    refused(tmp_path / "a", "no train/")
    for name in ("train", "val", "valid"):
        own.class_folder(tmp_path / "b" / name, each=1)
    refused(tmp_path / "b", "one part twice")


def test_links(tmp_path):
    own.class_folder(tmp_path / "data", each=1)
    own.save(tmp_path / "elsewhere" / "secret.png", own.picture(1, "red")[0])
    link = tmp_path / "data" / "red" / "link.png"
    link.symlink_to(tmp_path / "elsewhere" / "secret.png")
    refused(tmp_path / "data", ("is a link that leads out of the folder", "secret.png"))
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "data", "leads nowhere")
    link.unlink()
    link.symlink_to(tmp_path / "data")
    refused(tmp_path / "data", "a folder that it lies in")
    link.unlink()
    link.symlink_to(tmp_path / "data" / "blue" / "000.png")
    assert len(recognise_data(tmp_path / "data").samples) == 4
    whole = tmp_path / "whole"
    whole.symlink_to(tmp_path / "data")
    assert len(recognise_data(whole).samples) == 4


def test_files_that_are_folders(tmp_path):
    own.class_folder(tmp_path, each=1)
    (tmp_path / "red" / "folder.jpg").mkdir()
    refused(tmp_path, ("folder.jpg is a folder", "rename it"))


def test_family_decides_and_is_checked(tmp_path):
    own.frames(tmp_path / "frames", each=1)
    assert recognise_data(tmp_path / "frames", "classification").family == "classification"
    own.class_folder(tmp_path / "classes", each=2)
    refused(tmp_path / "classes", "--family video needs videos, or a folder of 2 or more frames", "video")
    refused(tmp_path / "classes", "is folders of classes, which is of the family classification or video", "detection")
    refused(tmp_path / "classes", "--family clasification: did you mean 'classification'?", "clasification")
    coco = own.coco(tmp_path / "masks", masks=True)
    assert recognise_data(coco, "detection").samples[0].objects[0].keys() == {"category_id", "bbox", "area", "iscrowd"}
    refused(own.coco(tmp_path / "boxes"), "12 of 12 objects have no mask", "instances")


def test_two_kinds_in_one_folder(tmp_path):
    own.yolo(tmp_path)
    shutil.copytree(own.maps(tmp_path / "other") / "masks", tmp_path / "masks" / "train")
    shutil.rmtree(tmp_path / "other")
    said = refused(tmp_path, ("can be read as", "--family"))
    assert "YOLO folder" in said
    assert "label maps" in said
    assert recognise_data(tmp_path, "detection").kind == "YOLO folder of boxes"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_and_marks_of_csv(tmp_path, separator, mark):
    file = own.csv_file(tmp_path, each=2)
    file.write_text(mark + file.read_text().replace(",", separator), encoding="utf-8")
    data = recognise_data(file)
    assert data.multi_label
    assert data.classes == ("blue", "green", "red")
    assert data.samples[1].labels == (0, 1)


def test_csv_without_a_header_and_with_parts(tmp_path):
    own.class_folder(tmp_path, each=3, colours=("red", "blue"))
    rows = [f"{name}/00{i}.png,{name}" for name in ("red", "blue") for i in range(3)]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    data = recognise_data(tmp_path / "a.csv")
    assert (data.classes, data.multi_label, len(data.samples)) == (("blue", "red"), False, 6)
    rows = ["file,label,split", *(f"{row},{'test' if row.count('002') else 'train'}" for row in rows)]
    (tmp_path / "b.csv").write_text("\n".join(rows))
    assert [sample.part for sample in recognise_data(tmp_path / "b.csv").samples] == ["train", "train", "test"] * 2


def test_csv_with_a_column_for_each_class(tmp_path):
    own.class_folder(tmp_path, each=2, colours=("red",))
    (tmp_path / "a.csv").write_text("image,round,red\nred/000.png,0,1\nred/001.png,1,1\n")
    data = recognise_data(tmp_path / "a.csv")
    assert (data.classes, data.multi_label) == (("round", "red"), True)
    assert [sample.labels for sample in data.samples] == [(1,), (0, 1)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\nred/000.png,a\nmissing.png,b\n", ("1 of 2 files do not exist", "'missing.png'")),
        ("path,label\nred/000.png,a\nred/001.png\n", ":3: 1 cells where 2 are expected"),
        ("path,label\nred/000.png,a\nred/001.png,\n", ":3: no label"),
        ("path,label\nred/000.png,a\nred/000.png,b\n", "twice"),
        ("path,label\nred/000.png,a\nred/001.png,a\n", "one class alone"),
        ("path,label\n", "names no images"),
        ("name,label\nx,a\n", "none is called path, file or image"),
        ("path,split\nred/000.png,train\n", "none of labels"),
        ("red/000.png\nred/001.png\n", "is one cell"),
        ("path,label\nred/000.png,a\n../../etc/passwd,b\n", "not of images"),
        ("path,label,split\nred/000.png,a,train\nred/001.png,b,rest\n", "the part 'rest'"),
        ("", "is empty"),
    ],
)
def test_wrong_csv(tmp_path, text, words):
    own.class_folder(tmp_path, each=2, colours=("red",))
    (tmp_path / "a.csv").write_text(text)
    refused(tmp_path / "a.csv", words)


def test_csv_that_is_no_text(tmp_path):
    (tmp_path / "a.csv").write_bytes("path,label\nä.png,b\n".encode("latin-1"))
    refused(tmp_path / "a.csv", ("a.csv:2", "is not UTF-8"))


def changed(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: c["annotations"][0].update(bbox=[100, 100, 20, 20]),
            ("annotation 0", "outside its image of 64 x 64"),
        ),
        (lambda c: c["annotations"][0].update(bbox=[10, 10, 0, 20]), "has no area"),
        (lambda c: c["annotations"][0].update(category_id=9), "category 9"),
        (lambda c: c["annotations"][0].update(image_id=99), "of image 99"),
        (lambda c: c["images"][0].update(file_name="gone.png"), ("1 of 12 images do not exist", "gone.png")),
        (lambda c: c["annotations"].clear(), "there is no annotation"),
        (lambda c: c.pop("categories"), "lacks categories"),
    ],
)
def test_wrong_coco(tmp_path, change, words):
    refused(changed(own.coco(tmp_path), change), words)


def test_coco_boxes_over_the_edge_are_cut_and_said(tmp_path):
    data = recognise_data(changed(own.coco(tmp_path), lambda c: c["annotations"][0].update(bbox=[-4, 10, 20, 20])))
    assert data.samples[0].objects[0]["bbox"] == [0.0, 10.0, 16.0, 20.0]
    assert data.notes == ("1 boxes stand over the edge of their image and are cut there",)


def test_coco_of_other_images(tmp_path):
    file = changed(own.coco(tmp_path), lambda c: c["images"][0].update(width=80))
    refused(file, ("64 x 64 pixels", "say 80 x 64", "of another image"), read=True)


def test_coco_of_unturned_images(tmp_path):
    file = own.coco(tmp_path, size=(64, 48))
    image = Image.open(tmp_path / "images" / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "images" / "0.png", exif=exif)
    refused(file, ("48 x 64", "its EXIF turns it"), read=True)


def test_several_coco_files(tmp_path):
    (tmp_path / "annotations").mkdir()
    for part in ("train", "val"):
        file = own.coco(tmp_path / f"{part}2024", each=2)
        file.rename(tmp_path / "annotations" / f"instances_{part}2024.json")
        (tmp_path / f"{part}2024" / "images").rename(tmp_path / "moved")
        (tmp_path / f"{part}2024").rmdir()
        (tmp_path / "moved").rename(tmp_path / f"{part}2024")
    data = recognise_data(tmp_path)
    assert {part: len(data.part(part)) for part in ("train", "val")} == {"train": 4, "val": 4}
    assert data.samples[0].path.parent.name == "train2024"
    (tmp_path / "annotations" / "instances_val2024.json").rename(tmp_path / "annotations" / "instances_b.json")
    refused(tmp_path, "name them train, val and test")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5 0.5 0.5 0.2 0.2", "the class 5 is out of range: the classes are 0 to 1"),
        ("0 1.5 0.5 0.2 0.2", "lies outside its image"),
        ("0 30 30 10 10", "is no share"),
        ("0 0.5 0.5 0.2", "is neither"),
        ("red 0.5 0.5 0.2 0.2", "is neither"),
        ("0 nan 0.5 0.2 0.2", "is neither"),
    ],
)
def test_wrong_yolo(tmp_path, text, words):
    own.yolo(tmp_path)
    (tmp_path / "labels" / "train" / "0.txt").write_text(text)
    said = refused(tmp_path, words)
    assert "0.txt:1" in said


def test_yolo_boxes_are_those_of_coco(tmp_path):
    boxes = [sample.objects[0]["bbox"] for sample in recognise_data(own.yolo(tmp_path / "a")).samples]
    by_name = {s.path.name: s.objects[0]["bbox"] for s in recognise_data(own.coco(tmp_path / "b")).samples}
    names = [sample.path.name for sample in recognise_data(tmp_path / "a").samples]
    np.testing.assert_allclose(boxes, [by_name[name] for name in names], atol=1e-3)
    outlines = recognise_data(own.yolo(tmp_path / "c", outlines=True)).samples
    np.testing.assert_allclose([s.objects[0]["bbox"] for s in outlines], boxes, atol=1e-3)
    assert outlines[0].objects[0]["area"] == pytest.approx(boxes[0][2] * boxes[0][3], rel=1e-3)


def test_yolo_without_names_or_with_lost_labels(tmp_path):
    own.yolo(tmp_path)
    (tmp_path / "labels" / "train" / "lost.txt").write_text("0 0.5 0.5 0.1 0.1")
    refused(tmp_path, ("1 files of labels are of no image", "lost.txt"))
    (tmp_path / "labels" / "train" / "lost.txt").unlink()
    (tmp_path / "data.yaml").write_text("names: {0: red, 2: blue}")
    refused(tmp_path, "not 0 to 1")
    (tmp_path / "data.yaml").unlink()
    refused(tmp_path, "no data.yaml and no classes.txt")


def test_wrong_label_maps(tmp_path):
    own.maps(tmp_path / "a")
    own.save(tmp_path / "a" / "masks" / "0.png", np.full((64, 64), 7, np.uint8))
    refused(tmp_path / "a", ("0.png", "holds the value 7"))
    own.maps(tmp_path / "b")
    own.save(tmp_path / "b" / "masks" / "0.png", np.zeros((32, 64), np.uint8))
    refused(tmp_path / "b", ("0.png has 64 x 32 pixels", "they do not belong together"), read=True)
    own.maps(tmp_path / "c")
    os.remove(tmp_path / "c" / "masks" / "0.png")
    refused(tmp_path / "c", "1 images have no label map")
    own.maps(tmp_path / "d")
    own.save(tmp_path / "d" / "masks" / "0.png", np.zeros((64, 64, 3), np.uint8))
    refused(tmp_path / "d", "one byte a pixel is needed")
    own.maps(tmp_path / "e")
    (tmp_path / "e" / "classes.txt").unlink()
    for file in (tmp_path / "e" / "masks").iterdir():
        own.save(file, np.where(np.asarray(Image.open(file)) > 0, 255, 0).astype(np.uint8))
    refused(tmp_path / "e", "of masks of 0 and 255, 255 as 1")


def test_label_maps_without_names(tmp_path):
    own.maps(tmp_path)
    (tmp_path / "classes.txt").unlink()
    data = recognise_data(tmp_path)
    assert data.classes == ("0", "1", "2")
    assert data.notes == ("no classes.txt names the classes: they are called 0 to 2",)


def test_most_files_broken(tmp_path):
    own.class_folder(tmp_path, each=2)
    for name in ("red", "blue"):
        for file in (tmp_path / name).iterdir():
            file.write_bytes(b"no image")
    refused(tmp_path, "4 of 6 files cannot be read, first", read=True)
