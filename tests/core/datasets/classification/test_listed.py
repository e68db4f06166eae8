"""FGVC and whole data sets in their layouts, made here, and what can be wrong with them. VTAB-1k: test_vtab.py."""

import json
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

from vpeft.apis.config.load import load_config
from vpeft.apis.data.check import check_suite
from vpeft.core.datasets.classification.fgvc import FGVC
from vpeft.core.datasets.classification.listed import ListedImages
from vpeft.core.datasets.classification.many_shot import ManyShot
from vpeft.core.datasets.embedded.mini import MiniVTAB
from vpeft.core.datasets.tasks import SPLITS, SUITES
from vpeft.errors import UserError

ROOT = Path(__file__).parents[4]
DOGS = 120


def picture(file: Path, shade: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 16), (255, shade, 0)).save(file)


def dogs(root: Path, place: str = "Images", numbers=range(1, DOGS + 1), task: str = "stanford_dogs") -> Path:
    """Stanford Dogs: numbers from 1, images in a folder of their own; validation and test of the last class alone."""
    folder = root / task
    numbers = list(numbers)
    lists = {"train": numbers[::-1], "val": numbers[-1:], "test": numbers[-1:]}
    for name, own in lists.items():
        entries = {f"{name}/{number}.jpg": number for number in own}
        for path, number in entries.items():
            picture(folder / place / path, number)
        (folder / f"{name}.json").write_text(json.dumps(entries))
    return root


def whole(root: Path) -> Path:
    """CIFAR-100: two training images, one to validate, one to test."""
    lists = {"train": [("a.png", 99), ("b c.png", 0)], "val": [("d.png", 5)], "test": [("e.png", 7)]}
    for name, rows in lists.items():
        for path, _ in rows:
            picture(root / "cifar100/images" / path)
        text = "".join(f"images/{path} {label}\n" for path, label in rows)
        (root / "cifar100" / f"{name}.txt").write_text(text)
    return root


@pytest.mark.parametrize("place", ["", "images", "Images", "jpg"])
def test_fgvc_counts_classes_from_zero(place, tmp_path):
    data = FGVC(str(dogs(tmp_path, place)), "stanford_dogs", pipeline=[{"type": "vpeft.LoadImage"}])
    assert data.split == "train"
    assert [data.get_data_info(i)["gt_label"] for i in range(len(data))] == list(range(DOGS))[::-1]
    assert data[0]["img"][0, 0].tolist() == pytest.approx([0, DOGS, 255], abs=6)  # of the last class, BGR
    test = FGVC(str(tmp_path), "dogs", "test")
    assert [test.get_data_info(i)["gt_label"] for i in range(len(test))] == [DOGS - 1]  # as train.json counts


def test_whole_data_sets(tmp_path):
    data = ManyShot(str(whole(tmp_path)), "cifar100_full")
    assert data.metainfo["split"] == "trainval"
    rows = [data.get_data_info(i) for i in range(len(data))]
    assert [(Path(row["img_path"]).name, row["gt_label"]) for row in rows] == [
        ("a.png", 99),
        ("b c.png", 0),
        ("d.png", 5),
    ]
    assert all(Path(row["img_path"]).is_file() for row in rows)
    assert len(ManyShot(str(tmp_path), "cifar100_full", "train")) == 2


@pytest.mark.parametrize(
    ("suite", "task", "make"), [("fgvc", "stanford_dogs", dogs), ("many_shot", "cifar100_full", whole)]
)
def test_batches_as_the_shipped_configs_read_them(suite, task, make, tmp_path):
    options = {"data_root": str(make(tmp_path)), "train_dataloader.num_workers": 0, "test_dataloader.num_workers": 0}
    cfg = load_config(ROOT / f"configs/{suite}/lora_vit.py", task, options)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for loader in (cfg.train_dataloader, cfg.test_dataloader):
            batch = next(iter(Runner.build_dataloader(loader, seed=0)))
            assert {image.shape for image in batch["inputs"]} == {(3, 224, 224)}
            labels = [int(sample.gt_label) for sample in batch["data_samples"]]
            assert 0 <= min(labels) <= max(labels) < cfg.model.head.num_classes


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train", None, r"list .*train\.json does not exist"),
        ("val", None, r"list .*val\.json does not exist: `tools/data\.py check .* --suite fgvc` says"),
        ("val", '{"a.jpg": 1', r"val\.json is truncated or no JSON \(.*\): unpack it again"),
        ("val", "[1]", r"val\.json holds no class numbers by path"),
        ("val", '{"a.jpg": "dog"}', r"val\.json: 'a\.jpg' has 'dog' for a class number"),
        ("val", '{"a.jpg": 121}', r"val\.json: 'a\.jpg' is of class 121, which train\.json has no image of"),
        ("val", '{"a.jpg": true}', r"val\.json: 'a\.jpg' has True for a class number"),
        ("val", '{"a.jpg": NaN}', r"val\.json: 'a\.jpg' has nan for a class number"),
        ("val", '{"a.jpg": 120, "a.jpg": 119}', r"val\.json .*the key 'a\.jpg' stands twice"),
        ("val", f'{{"{"a" * 300}": 120}}', r"val\.json: 'aaa.* is no path of a file: a name has 300 bytes"),
        ("val", "{}", r"list .*val\.json is empty"),
        ("train", '{"a.jpg": 1}', r"train\.json has 1 classes, task stanford_dogs 120: is it of this task"),
    ],
)
def test_broken_fgvc_lists_are_named(name, text, message, tmp_path):
    file = dogs(tmp_path) / "stanford_dogs" / f"{name}.json"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(UserError, match=message):
        FGVC(str(tmp_path), "stanford_dogs", "val")


def test_broken_whole_data_sets_are_named(tmp_path):
    with pytest.raises(UserError, match=r"many-shot folder .*no does not exist: unpack many-shot there"):
        ManyShot(str(tmp_path / "no"), "cifar100_full")
    whole(tmp_path)
    with pytest.raises(UserError, match="unknown split 'trainvall' of suite 'many_shot': did you mean 'trainval'"):
        ManyShot(str(tmp_path), "cifar100_full", "trainvall")
    with pytest.raises(UserError, match=r"check .* --suite many_shot"):
        ManyShot(str(tmp_path), "clevr_dist_full")
    (tmp_path / "cifar100/val.txt").write_text("images/d.png 100\n")
    with pytest.raises(UserError, match=r"val\.txt:1: label 100 is out of range"):
        ManyShot(str(tmp_path), "cifar100_full")


def test_check_of_every_suite(tmp_path):
    (dogs_state,) = [s for s in check_suite(dogs(tmp_path / "fgvc"), "fgvc", decode=True) if s.present]
    assert dogs_state.counts == {"train": DOGS, "val": 1, "test": 1}
    assert dogs_state.problem == f"train.json lists {DOGS} images, the public one 10800"
    (cifar,) = [s for s in check_suite(whole(tmp_path / "whole"), "many_shot") if s.present]
    assert cifar.counts == {"train": 2, "val": 1, "trainval": 3, "test": 1}
    picture_file = tmp_path / "whole/cifar100/images/d.png"
    picture_file.unlink()
    (cifar,) = [s for s in check_suite(tmp_path / "whole", "many_shot") if s.present]
    assert "d.png of val.txt does not exist" in cifar.problem


def test_sizes_of_the_suites():
    """As the protocols state them: FGVC's lists, and all training images of the whole data sets."""
    assert SUITES["fgvc"]["nabirds"].sizes == {"train": 21_536, "val": 2_393, "test": 24_633}
    assert [task.num_classes for task in SUITES["fgvc"].values()] == [200, 555, 102, 120, 196]
    trained = {name: task.sizes["trainval"] for name, task in SUITES["many_shot"].items()}
    assert trained == {"cifar100_full": 50_000, "resisc45_full": 25_200, "clevr_dist_full": 70_000}
    assert SUITES["vtab"]["dtd"].sizes == {"train800": 800, "val200": 200, "train800val200": 1000, "test": 1880}
    assert set(ListedImages.readers) | set(MiniVTAB.readers) == set(SUITES) == set(SPLITS)
