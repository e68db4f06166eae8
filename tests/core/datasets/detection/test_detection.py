"""COCO and VOC folders in their public layouts, read by the recipes' own data sets and pipelines, whole and broken."""

import json

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, METRICS, init_default_scope
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools import mask as coco_mask

from vpeft.apis.config.load import load_config
from vpeft.core.datasets.detection.scenes import SceneCoco, SceneVOC
from vpeft.core.datasets.embedded.scene_files import write_coco, write_voc
from vpeft.core.datasets.embedded.scenes import CLASSES, draw_split
from vpeft.errors import UserError

COCO, VOC = "configs/detection/lora_swin-b_coco.py", "configs/detection/lora_swin-l_voc.py"
SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("mmdet")


def coco_content(classes):
    """Five images: a polygon, a box across the edge, one wholly outside, a crowd as RLE, and none at all."""
    rle = coco_mask.encode(np.asfortranarray(np.ones((60, 80), dtype=np.uint8)))
    crowd = {"size": rle["size"], "counts": rle["counts"].decode()}
    rows = [
        (1, 3, [10, 10, 20, 20], SQUARE, 0),
        (2, 1, [70, 50, 40, 40], [[70, 50, 110, 50, 110, 90, 70, 90]], 0),
        (3, 1, [200, 200, 20, 20], [[200, 200, 220, 200, 220, 220, 200, 220]], 0),
        (3, 2, [20, 20, 20, 20], SQUARE, 0),
        (4, 2, [0, 0, 80, 60], crowd, 1),
        (4, 2, [5, 5, 20, 20], SQUARE, 0),
    ]
    keys = ("image_id", "category_id", "bbox", "segmentation", "iscrowd")
    return {
        "images": [{"id": i, "file_name": f"{i:012}.jpg", "height": 60, "width": 80} for i in range(1, 6)],
        "annotations": [
            {"id": n, "area": row[2][2] * row[2][3], **dict(zip(keys, row, strict=True))}
            for n, row in enumerate(rows, 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
    }


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """The recipe's training set on a folder of five images; a function changes the annotations before."""
    cfg = load_config(COCO)
    from mmdet.datasets import CocoDataset

    content = coco_content(CocoDataset.METAINFO["classes"])
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for image in content["images"]:
        pixels = np.full((60, 80, 3), 10 * image["id"], dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "train2017" / image["file_name"])

    def build(change=None, **options):
        if change is not None:
            change(content)
        (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
        return DATASETS.build({**cfg.train_dataloader.dataset, "data_root": str(tmp_path), **options})

    build.root = tmp_path
    build.cfg = cfg
    return build


def test_coco_as_mmdet_documents(coco):
    data = coco()
    assert [data.get_data_info(i)["img_id"] for i in range(len(data))] == [1, 2, 3, 4]  # 5 has no box
    found = [[one["bbox"] for one in data.get_data_info(i)["instances"]] for i in range(4)]
    assert found[0] == [[10, 10, 30, 30]]
    assert found[1] == [[70, 50, 110, 90]]  # cut by the pipeline
    assert found[2] == [[20, 20, 40, 40]]  # the one outside is left out
    assert [one["ignore_flag"] for one in data.get_data_info(3)["instances"]] == [1, 0]
    assert data.get_data_info(0)["instances"][0]["bbox_label"] == 2


def test_coco_through_the_training_pipeline(coco):
    data = coco()
    for index in range(len(data)):
        sample = data[index]
        height, width = sample["inputs"].shape[1:]
        assert max(height, width) <= 1333
        assert 480 <= min(height, width) <= 800
        truth = sample["data_samples"].gt_instances
        boxes = truth.bboxes.tensor
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= width
        assert boxes[:, 3].max() <= height
        assert truth.masks.masks.shape == (len(boxes), height, width)
    square = data[0]["data_samples"].gt_instances
    (x1, y1, x2, y2), area = square.bboxes.tensor[0].tolist(), square.masks.masks.sum()
    assert area == pytest.approx((x2 - x1) * (y2 - y1), rel=0.05)


def test_testing_counts_every_image(coco):
    data = coco(test_mode=True, pipeline=coco.cfg.test_dataloader.dataset.pipeline)
    assert len(data) == 5
    assert data[4]["data_samples"].img_id == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"].pop(1), "annotation 4 is of category 2, which the file does not define"),
        (lambda c: c["categories"].pop(9), r"no category 'traffic light' .*labels would be shifted"),
        (lambda c: c["categories"].reverse(), "lists the categories in another order"),
        (lambda c: c["images"].pop(0), "annotation 1 is of image 1, which the file does not list"),
        (lambda c: c["annotations"][0].pop("bbox"), "an entry lacks 'bbox'"),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2, 3]),
            r"annotation 1 needs .* it has 400 and \[1, 2, 3\]",
        ),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "annotation 1 needs"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, 10**400]), "annotation 1 needs"),
        (lambda c: c["annotations"][0].update(bbox="1234"), "annotation 1 needs"),
        (lambda c: c["annotations"][0].update(area=None), "annotation 1 needs an area .* it has None"),
        (lambda c: c["annotations"][0].update(id=2), "annotations holds 2 entries with the id 2"),
        (lambda c: c["images"][1].update(id=1), "images holds 2 entries with the id 1"),
        (lambda c: c["images"][0].update(width=-1), r"image 1 needs height and width .* it has \(60, -1\)"),
        (lambda c: c["images"][0].update(file_name="a" * 300), "image 1: 'aaa.* is no path of a file"),
        (lambda c: c["images"][0].update(file_name=7), "image 1: 7 is no path of a file"),
        (lambda c: c["images"].clear() or c["annotations"].clear(), "train2017.json lists no images"),
        (lambda c: c["annotations"].clear(), "leaves none of its 5 images: 5 hold no box of the classes"),
        (lambda c: c.pop("categories"), "lacks categories"),
        (
            lambda c: [c["annotations"][n].pop("segmentation") for n in (1, 3)],
            r"2 of the boxes have no segmentation, first one on .*000000000002\.jpg, and the pipeline loads masks",
        ),
        (lambda c: c["annotations"][0].update(segmentation=[]), "1 of the boxes have no segmentation"),
        (lambda c: c["images"][0].update(file_name="gone.jpg"), "1 of 5 images of .* are missing, first .*gone.jpg"),
    ],
)
def test_a_coco_file_that_contradicts_itself_is_refused(coco, change, message):
    with pytest.raises(UserError, match=message):
        coco(change)


def test_boxes_alone_need_no_segmentation(coco):
    steps = [
        {**step, **({"with_mask": False} if step["type"] == "LoadAnnotations" else {})}
        for step in coco.cfg.train_dataloader.dataset.pipeline
    ]
    assert len(coco(lambda c: c["annotations"][1].pop("segmentation"), pipeline=steps)) == 4


def test_a_filter_that_leaves_nothing_is_refused(coco):
    with pytest.raises(UserError, match=r"instances_train2017\.json: filter_cfg=.*5 are smaller than min_size=128"):
        coco(filter_cfg={"filter_empty_gt": False, "min_size": 128})
    assert len(coco(filter_cfg={"filter_empty_gt": False, "min_size": 60})) == 5
    assert len(coco(filter_cfg={"filter_empty_gt": True, "min_size": 128}, test_mode=True)) == 5


def test_a_missing_or_truncated_coco_file_is_named(coco):
    coco()
    path = coco.root / "annotations" / "instances_train2017.json"
    text = path.read_text()
    cfg = {**coco.cfg.train_dataloader.dataset, "data_root": str(coco.root)}
    path.write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=r"instances_train2017\.json is truncated or no JSON"):
        DATASETS.build(cfg)
    path.unlink()
    with pytest.raises(UserError, match=r"instances_train2017.json does not exist.*docs/detection.md"):
        DATASETS.build(cfg)


@pytest.fixture
def warnings_seen(monkeypatch):
    seen = []
    monkeypatch.setattr(MMLogger.get_current_instance(), "warning", lambda message, *args: seen.append(message))
    return seen


def test_a_category_that_the_config_does_not_name_is_left_out_and_said(coco, warnings_seen):
    def add(content):
        content["categories"].append({"id": 500, "name": "unicorn"})
        content["annotations"].append({**content["annotations"][0], "id": 99, "category_id": 500})

    data = coco(add)
    assert len(data.get_data_info(0)["instances"]) == 1
    assert any("1 boxes of classes that the config does not name" in m and "unicorn" in m for m in warnings_seen)


def test_a_broken_image_is_named(coco):
    data = coco()
    path = coco.root / "train2017" / f"{1:012}.jpg"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UserError, match=r"000000000001.jpg is truncated or no image"):
        data[0]


def test_images_are_turned_as_annotations_assume(coco):
    data = coco()
    turned = Image.fromarray(np.arange(80 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(80, 60, 3))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(coco.root / "train2017" / f"{1:012}.jpg", exif=exif)
    assert data[0]["data_samples"].ori_shape == (60, 80)


VOC_IMAGES = {
    # name of the object, difficult, xmin, ymin, xmax, ymax (counted from 1); the image is 100 wide and 60 high
    "000001": [("dog", 0, 11, 11, 60, 50), ("cat", 1, 1, 1, 40, 40)],
    "000002": [("cat", 0, 81, 21, 140, 70)],
    "000003": [("dog", 0, 201, 11, 240, 50), ("dog", 0, 2, 2, 50, 50)],
    "000004": [("unicorn", 0, 1, 1, 50, 50), ("person", 0, 11, 11, 50, 50)],
    "000005": [],
}


def voc_xml(name, objects):
    box = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    things = "".join(
        f"<object><name>{kind}</name><difficult>{difficult}</difficult>{box.format(*corners)}</object>"
        for kind, difficult, *corners in objects
    )
    size = "<size><width>100</width><height>60</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.jpg</filename>{size}{things}</annotation>"


@pytest.fixture
def voc(tmp_path):
    cfg = load_config(VOC)
    for year in ("VOC2007", "VOC2012"):
        root = tmp_path / year
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / folder).mkdir(parents=True)
        for name, objects in VOC_IMAGES.items():
            Image.fromarray(np.full((60, 100, 3), 99, np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
            (root / "Annotations" / f"{name}.xml").write_text(voc_xml(name, objects))
        for part in ("trainval", "test"):
            (root / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{name}\n" for name in VOC_IMAGES))

    def build(part="train"):
        def move(node):
            return {
                key: str(tmp_path)
                if key == "data_root"
                else move(value)
                if isinstance(value, dict)
                else [move(one) for one in value]
                if key == "datasets"
                else value
                for key, value in node.items()
            }

        return DATASETS.build(move(cfg[f"{part}_dataloader"].dataset.to_dict()))

    build.root = tmp_path
    return build


def test_voc_trains_on_both_years_three_times(voc, warnings_seen):
    data = voc()
    assert len(data) == 3 * 2 * 4  # without 000005
    one = data.get_data_info(0)
    assert one["instances"][0]["bbox"] == [10, 10, 59, 49]  # counted from 0
    assert [thing["ignore_flag"] for thing in one["instances"]] == [0, 1]
    assert [thing["bbox"] for thing in data.get_data_info(2)["instances"]] == [[1, 1, 49, 49]]
    assert len(data.get_data_info(3)["instances"]) == 1
    assert sum("unicorn" in message for message in warnings_seen) == 2
    for index in range(4):
        sample = data[index]
        height, width = sample["inputs"].shape[1:]
        assert (height, width) == (600, 1000)
        boxes = sample["data_samples"].gt_instances.bboxes.tensor
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert boxes.max() <= 1000


@pytest.mark.parametrize(
    ("corners", "kept"),  # counted from 1, as the files do; the image is 100 wide and 60 high
    [
        ((31, 11, 31, 30), False),
        ((31, 11, 50, 11), False),
        ((-20, 11, 1, 30), False),
        ((31, -20, 50, 1), False),
        ((101, 11, 120, 30), False),
        ((31, 61, 50, 80), False),
        ((31, 11, 32, 12), True),
        ((100, 60, 120, 80), True),
        ((-20, -20, 2, 2), True),
    ],
)
def test_boxes_without_an_area_in_the_image_are_not_trained_on(voc, corners, kept):
    for year in ("VOC2007", "VOC2012"):
        dog, other = ("dog", 0, 2, 2, 50, 50), ("cat", 0, *corners)
        (voc.root / year / "Annotations" / "000001.xml").write_text(voc_xml("000001", [dog, other]))
    boxes = [one["bbox"] for one in voc().get_data_info(0)["instances"]]
    assert boxes == [[1, 1, 49, 49], [number - 1 for number in corners]][: 1 + kept]


def evaluate(data, predictions):
    """The recipe's metric on what is predicted: per image (label, score, box)."""
    metric = METRICS.build(load_config(VOC).test_evaluator)
    metric.dataset_meta = data.metainfo
    samples = []
    for index, found in enumerate(predictions):
        sample = data[index]["data_samples"]
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor([box for *_, box in found]).reshape(-1, 4).float(),
            scores=torch.tensor([score for _, score, _ in found]).float(),
            labels=torch.tensor([label for label, *_ in found], dtype=torch.long),
        )
        samples.append(sample.to_dict())
    metric.process({}, samples)
    return metric.evaluate(len(data))["pascal_voc/mAP"]


def test_what_lies_outside_counts_as_missed_in_testing(voc):
    data = voc("test")
    assert len(data) == 5
    dog, cat, person = (data.metainfo["classes"].index(name) for name in ("dog", "cat", "person"))
    right = [
        [(dog, 0.9, [10, 10, 59, 49])],
        [(cat, 0.9, [80, 20, 139, 69])],
        [(dog, 0.8, [1, 1, 49, 49])],
        [(person, 0.9, [10, 10, 49, 49])],
        [],
    ]
    # Two of three dogs are found: recall 2/3 covers 7 of 11 points.
    assert evaluate(data, right) == pytest.approx((7 / 11 + 1 + 1) / 3, abs=1e-6)
    # A box in the image without any costs precision; one on the difficult cat, which is ignored, does not.
    wrong = [*right[:4], [(person, 0.95, [0, 0, 20, 20])]]
    assert evaluate(data, wrong) == pytest.approx((7 / 11 + 1 + 0.5) / 3, abs=1e-6)
    ignored = [[*right[0], (cat, 0.99, [0, 0, 39, 39])], *right[1:]]
    assert evaluate(data, ignored) == pytest.approx((7 / 11 + 1 + 1) / 3, abs=1e-6)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("ImageSets/Main/trainval.txt", None, "list of images .*trainval.txt does not exist"),
        ("ImageSets/Main/trainval.txt", "\n", "trainval.txt is empty"),
        ("ImageSets/Main/trainval.txt", f"000001\n{'0' * 300}\n", "trainval.txt:2: '000.* is no path of a file"),
        ("ImageSets/Main/trainval.txt", "000005\n", "trainval.txt: filter_cfg=.* leaves none of its 1 images: 1 hold"),
        ("Annotations/000003.xml", voc_xml("000003", [("dog", 0, 1, 1, "inf", 5)]), "3.xml is broken"),
        ("JPEGImages/000002.jpg", None, "1 of 5 images of .*trainval.txt are missing, first .*000002.jpg"),
        ("Annotations/000003.xml", None, "annotation .*000003.xml does not exist"),
        ("Annotations/000003.xml", "<annotation><object>", "000003.xml is broken"),
        ("Annotations/000003.xml", "<annotation><object><name>dog</name></object></annotation>", "3.xml is broken"),
        ("Annotations/000003.xml", voc_xml("000003", [("dog", 0, 1, 1, "x", 5)]), "3.xml is broken .*'x'"),
    ],
)
def test_a_broken_voc_folder_is_refused(voc, path, content, message):
    file = voc.root / "VOC2012" / path
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        voc()


def test_scenes_in_both_layouts(tmp_path):
    sizes = {"train": 6, "test": 3}
    write_coco(tmp_path, sizes)
    (tmp_path / "voc").mkdir()
    write_voc(tmp_path / "voc", sizes)
    for split in sizes:
        content = json.loads((tmp_path / "annotations" / f"instances_{split}.json").read_text())
        drawn = draw_split(split, sizes[split])
        assert [len(one.labels) for one in drawn] == [
            sum(a["image_id"] == i["id"] for a in content["annotations"]) for i in content["images"]
        ]
        masks = np.concatenate([one.masks for one in drawn])
        read = np.stack([coco_mask.decode(a["segmentation"]) for a in content["annotations"]])
        assert (read == masks).all()
        pixels = np.asarray(Image.open(tmp_path / split / "000001.png"))
        assert (pixels == drawn[1].image).all()
        near = np.asarray(Image.open(tmp_path / "voc" / "JPEGImages" / f"{split}_000001.jpg")).astype(int)
        assert abs(near - drawn[1].image).mean() < 6


def test_scenes_are_drawn_on_first_use_and_read_by_mmdet(tmp_path, monkeypatch):
    from vpeft.core.datasets.detection import scenes as detection

    monkeypatch.setattr(detection, "write_coco", lambda root: write_coco(root, {"train": 4}))
    monkeypatch.setattr(detection, "write_voc", lambda root: write_voc(root, {"train": 4}))
    one = SceneCoco(
        data_root=str(tmp_path / "coco"), ann_file="annotations/instances_train.json", data_prefix={"img": "train/"}
    )
    two = SceneVOC(data_root=str(tmp_path / "voc"), ann_file="ImageSets/Main/train.txt")
    drawn = draw_split("train", 4)
    assert len(one) == len(two) == 4
    for index, scene in enumerate(drawn):
        for data, wide in ((one, 0), (two, 1)):  # VOC's last pixel is inside
            things = data.get_data_info(index)["instances"]
            assert [thing["bbox_label"] for thing in things] == scene.labels.tolist()
            boxes = np.array([thing["bbox"] for thing in things])
            assert (boxes + np.array([0, 0, wide, wide]) == scene.boxes).all()
    assert one.metainfo["classes"] == CLASSES


def test_object_sheet(tmp_path):
    from vpeft.apis.data.sheets import object_sheet

    path = object_sheet(tmp_path / "sheet.png", samples=4)
    assert path.stat().st_size < 60_000
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    colours = np.array([scene.image.mean((0, 1)) for scene in draw_split("train", 4)])
    parts = np.array([part.mean((0, 1)) for part in np.array_split(pixels, 4, axis=1)])
    assert (np.abs(parts[:, None] - colours[None]).sum(-1).argmin(1) == np.arange(4)).all()
