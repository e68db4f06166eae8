"""What is seen in a folder, what looks the same, and how it is divided."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from support import own

from vpeft.core.datasets.own.duplicates import groups_of
from vpeft.core.datasets.own.found import OwnData, OwnSample
from vpeft.core.datasets.own.inspect import look_at_data, names_alike
from vpeft.core.datasets.own.lists import write_lists
from vpeft.core.datasets.own.recognise import recognise_data
from vpeft.core.datasets.own.split import split_parts
from vpeft.errors import UserError


def seen_of(path, val=0.2, test=0.0, seed=0):
    seen = look_at_data(recognise_data(path))
    return replace(seen, data=split_parts(seen.data, seen.groups, val, test, seed))


def test_mixed_images(tmp_path):
    seen = seen_of(own.mixed_folder(tmp_path))
    assert [path.name for path, _ in seen.broken] == ["photo 3.jpg"]
    assert seen.broken[0][1].startswith("truncated or no image")
    assert len(seen.data.samples) == len(seen.facts) == 59
    modes = {fact.mode for fact in seen.facts}
    assert {"L", "RGBA", "I;16", "P", "RGB"} == modes
    assert sum(fact.turned for fact in seen.facts) == 1
    assert {fact.size for fact in seen.facts} == {(48, 40), (40, 48)}
    assert seen.counts() == {
        "blue": {"train": 16, "val": 4},
        "green": {"train": 15, "val": 4},
        "red": {"train": 16, "val": 4},
    }


def photo(seed):
    """A smooth picture, as photographs are."""
    low = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(low).resize((160, 120), Image.Resampling.BICUBIC)


def variants(folder, image):
    """The same picture stored anew, smaller, brighter, and its exact copy."""
    folder.mkdir(parents=True)
    image.save(folder / "a.png")
    image.save(folder / "copy.png")
    image.save(folder / "b.jpg", quality=70)
    image.resize((80, 60)).save(folder / "c.png")
    ImageEnhance.Brightness(image).enhance(1.02).save(folder / "d.png")


def test_what_looks_the_same_is_in_one_part(tmp_path):
    for number in range(10):
        variants(tmp_path / ("one" if number % 2 else "two") / str(number), photo(number))
    for seed in range(3):
        seen = seen_of(tmp_path, seed=seed)
        assert len(set(seen.groups)) == 10
        for group in set(seen.groups):
            parts = {s.part for s, g in zip(seen.data.samples, seen.groups, strict=True) if g == group}
            assert len(parts) == 1
        assert {part: len(seen.data.part(part)) for part in ("train", "val")} == {"train": 40, "val": 10}
    assert any("50 images look like another one (10 groups): each group is in one part" in w for w in seen.warnings())


def test_duplicates_across_parts_are_said(tmp_path):
    own.class_folder(tmp_path / "train", each=6)
    own.class_folder(tmp_path / "val", each=2, start=20)
    own.class_folder(tmp_path / "test", each=2, start=5)
    seen = seen_of(tmp_path)
    said = " | ".join(seen.warnings())
    assert "3 images of val or test look like one of another part, so that its figure flatters" in said
    assert "train/005.png = test/005.png" in said


def test_one_file_in_two_classes_is_said(tmp_path):
    own.class_folder(tmp_path, each=6)
    (tmp_path / "blue" / "x.png").write_bytes((tmp_path / "red" / "001.png").read_bytes())
    assert any(
        "1 files stand in several classes: blue/x.png = red/001.png" in line
        for line in look_at_data(recognise_data(tmp_path)).warnings()
    )


def test_drawings_are_not_duplicates():
    """Simple drawings share perceptual hashes; their small pictures tell them apart."""
    hashes = np.zeros((3, 64), bool)
    small = np.stack([np.full(48, 0), np.full(48, 3), np.full(48, 200)]).astype(np.uint8)
    assert groups_of(["a", "b", "c"], hashes, small).tolist() == [0, 0, 1]


def test_rare_and_tiny_and_empty_are_said(tmp_path):
    own.class_folder(tmp_path, each=6)
    own.save(tmp_path / "rare" / "a.png", own.picture(1, "red", (40, 30))[0][:8, :8])
    (tmp_path / "nothing").mkdir()
    said = " | ".join(seen_of(tmp_path).warnings())
    assert "1 images are smaller than 16 pixels: a.png" in said
    assert "1 class has fewer than 5 samples: rare (1)" in said
    assert "1 classes have no sample to validate on: rare" in said
    assert "nothing/ holds no image or video: no class is made of it" in said


@pytest.mark.parametrize(("val", "test"), [(0.2, 0.0), (0.1, 0.2), (0.5, 0.0), (0.15, 0.15)])
def test_shares_are_kept_class_by_class(tmp_path, val, test):
    own.class_folder(tmp_path, each=20)
    counts = seen_of(tmp_path, val, test).counts()
    for by_part in counts.values():
        assert by_part["val"] == pytest.approx(20 * val, abs=1)
        assert by_part["test"] == pytest.approx(20 * test, abs=1)
        assert sum(by_part.values()) == 20


def test_an_image_of_several_classes_counts_as_its_rarest():
    """Dealt by the rarest class each part has its share of it; by the commonest all samples would be alike."""
    samples = [OwnSample(Path(f"{n}.png"), (0, 1) if n % 10 == 0 else (0,)) for n in range(100)]
    data = OwnData("a list", "classification", Path(), ("common", "rare"), tuple(samples), multi_label=True)
    for seed in range(5):
        parts = split_parts(data, range(100), 0.2, 0.0, seed)
        rare = [sum(1 in sample.labels for sample in parts.part(part)) for part in ("train", "val")]
        assert rare == [8, 2], seed


def test_the_seed_decides(tmp_path):
    own.class_folder(tmp_path)
    parts = [tuple(s.part for s in seen_of(tmp_path, seed=seed).data.samples) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_given_parts_stay_and_the_test_part_is_not_validated_on(tmp_path):
    own.class_folder(tmp_path / "train", each=10)
    own.class_folder(tmp_path / "test", each=3, start=30)
    seen = seen_of(tmp_path)
    assert {s.path.parent.parent.name for s in seen.data.part("test")} == {"test"}
    assert {s.path.parent.parent.name for s in seen.data.part("val")} == {"train"}
    assert {part: len(seen.data.part(part)) for part in ("train", "val", "test")} == {"train": 24, "val": 6, "test": 9}
    with pytest.raises(UserError, match="have a test part of their own"):
        seen_of(tmp_path, test=0.1)


@pytest.mark.parametrize(
    ("each", "val", "said"),
    [
        (1, 0.2, "every class has one image alone"),
        (4, 0.0, "--val-share 0, and the data have no validation part"),
        (4, 0.9, "a share of the images is 0 to 0.5"),
    ],
)
def test_too_few(tmp_path, each, val, said):
    own.class_folder(tmp_path, each=each)
    with pytest.raises(UserError, match=said):
        seen_of(tmp_path, val)


def test_lists_are_of_what_is_there(tmp_path):
    data = seen_of(own.class_folder(tmp_path / "data", each=5)).data
    lists = write_lists(data, tmp_path / "lists")
    assert list(lists) == ["train", "val"]
    content = json.loads(lists["val"].read_text())
    assert content["metainfo"] == {"classes": ["blue", "green", "red"]}
    assert all((data.root / row["img_path"]).is_file() for row in content["data_list"])
    assert write_lists(data, tmp_path / "lists") == lists
    other = write_lists(seen_of(tmp_path / "data", seed=3).data, tmp_path / "lists")
    assert other["val"] != lists["val"]
    assert lists["val"].is_file()


def test_coco_lists_are_coco(tmp_path):
    pytest.importorskip("mmdet")
    from vpeft.core.datasets.detection.coco import check_coco

    data = seen_of(own.coco(tmp_path / "data", masks=True)).data
    lists = write_lists(data, tmp_path / "lists")
    check_coco(lists["train"], ["red", "blue"])
    content = json.loads(lists["train"].read_text())
    assert len(content["images"]) + len(json.loads(lists["val"].read_text())["images"]) == 12
    assert all((data.root / image["file_name"]).is_file() for image in content["images"])
    assert content["categories"] == [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]


def test_several_pictures_in_a_file_are_said(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(5):
            photo(number + 10 * (name == "dog")).save(tmp_path / name / f"{number}.png")
    first, *others = (photo(seed) for seed in range(50, 53))
    first.save(tmp_path / "cat" / "pages.tiff", save_all=True, append_images=others)
    first.save(tmp_path / "dog" / "phone.jpg", format="MPO", save_all=True, append_images=others[:1])
    said = seen_of(tmp_path).warnings()
    assert "1 images hold several pictures, of which the first is read: pages.tiff (3)" in said


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["Cat", "cat", "dog"], ["Cat = cat"]),
        (["7", "007", "70"], ["7 = 007"]),
        (["class 1", "class_01", "class-1", "class 10"], ["class 1 = class_01 = class-1"]),
        (["caf\u00e9", "cafe\u0301", "tea"], ["'caf\\xe9' = 'cafe\\u0301'"]),
        (["-1", "1", "0", "c", "c++", "c#", "1.5", "15", "img10", "img1"], []),
        (["9" * 5000, "8" * 5000], []),
    ],
)
def test_names_that_say_the_same(names, said):
    assert names_alike(names) == said


@pytest.mark.parametrize("kind", ["gif", "tiff", "webp"])
def test_a_file_whose_later_pictures_are_broken_is_looked_at(tmp_path, kind):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(5):
            photo(number + 10 * (name == "dog")).save(tmp_path / name / f"{number}.png")
    first, *others = (photo(seed) for seed in range(50, 53))
    file = tmp_path / "cat" / f"pages.{kind}"
    first.save(file, save_all=True, append_images=others)
    whole = file.read_bytes()
    for share in (0.4, 0.6, 0.8, 0.95):
        file.write_bytes(whole[: int(len(whole) * share)] + bytes(64))
        seen = seen_of(tmp_path)
        assert len(seen.data.samples) + len(seen.broken) == 11
