"""Images from the store have the bits of those that are decoded, and nothing else about a run is another."""

import functools
import multiprocessing
import os
import pickle
import random
from pathlib import Path

import vpeft  # noqa: F401  # isort: skip  mends torchvision, in spawned workers too

import mmpretrain.datasets  # noqa: F401  (its transforms)
import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, Compose, ConcatDataset
from mmengine.registry import DefaultScope
from PIL import Image
from torch.utils.data import DataLoader, Subset

from vpeft.core.datasets import decoded
from vpeft.core.datasets.decoded import StoredHead, close_store, head_length, keep_decoded, open_store, release
from vpeft.core.datasets.embedded.mini import MiniVTAB
from vpeft.core.datasets.load.image import LoadImage
from vpeft.errors import UserError

LIMIT = 50_000_000
LOAD, PACK = {"type": "vpeft.LoadImage"}, {"type": "PackInputs"}
EDGE = {"type": "ResizeEdge", "scale": 32, "edge": "short", "interpolation": "bicubic"}
SQUARE = {"type": "Resize", "scale": (24, 24), "interpolation": "bicubic"}
CENTRE, CROP = {"type": "CenterCrop", "crop_size": 28}, {"type": "RandomCrop", "crop_size": 20}
FLIP = {"type": "RandomFlip", "prob": 0.5, "direction": "horizontal"}
RANDOM_RESIZED = {"type": "RandomResizedCrop", "scale": 24, "interpolation": "bicubic"}
RAND_AUGMENT = {"type": "RandAugment", "policies": "timm_increasing", "num_policies": 2, "magnitude_level": 9}
JITTER = {"type": "ColorJitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
#: Pipelines, and how many of their first transforms are kept.
PIPELINES = {
    "square": ([LOAD, SQUARE, PACK], 2),
    "centre": ([LOAD, EDGE, CENTRE, PACK], 3),
    "crop and flip": ([LOAD, EDGE, CROP, FLIP, PACK], 2),
    "random first": ([LOAD, RANDOM_RESIZED, FLIP, PACK], 1),
    "colours": ([LOAD, EDGE, CROP, RAND_AUGMENT, JITTER, PACK], 2),
    "mmcv": ([{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": (40, 24), "keep_ratio": True}, FLIP, PACK], 2),
    "PIL": ([{"type": "LoadImageFromFile", "imdecode_backend": "pillow"}, {**SQUARE, "backend": "pillow"}, PACK], 2),
    "factor": ([LOAD, {"type": "Resize", "scale_factor": 0.5}, PACK], 2),
}


def pixels(number, channels=3, size=(41, 53)):
    rng = np.random.default_rng(number)
    smooth = rng.integers(0, 256, (6, 8, channels)).astype(np.uint8)
    return np.asarray(Image.fromarray(smooth).resize(size[::-1], Image.Resampling.BICUBIC))


def written(folder):
    """Pictures of many kinds, by name."""
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray(pixels(1)).convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 200 + 77
    images = {
        "photo.jpg": (Image.fromarray(pixels(2)), {"quality": 90}),
        "grey.jpg": (grey, {"quality": 80}),
        "cmyk.jpg": (Image.fromarray(pixels(3)).convert("CMYK"), {}),
        "turned.jpg": (Image.fromarray(pixels(4)), {"exif": exif}),
        "plain.png": (Image.fromarray(pixels(5)), {}),
        "alpha.png": (Image.fromarray(pixels(6, 4)), {}),
        "grey_alpha.png": (grey.convert("LA"), {}),
        "palette.png": (Image.fromarray(pixels(7)).quantize(20), {}),
        "deep.png": (Image.fromarray(deep), {}),
        "deep.tiff": (Image.fromarray(deep), {}),
        "two.gif": (Image.fromarray(pixels(8)).quantize(9), {}),
        "wide.bmp": (Image.fromarray(pixels(9, size=(30, 90))), {}),
    }
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    return [str(folder / name) for name in images]


class Listed(BaseDataset):
    def load_data_list(self):
        return [{"img_path": path, "gt_label": i} for i, path in enumerate(self.ann_file)]

    def _join_prefix(self):
        pass


@pytest.fixture(autouse=True)
def _scope():
    DefaultScope.get_instance("decoded", scope_name="mmpretrain")
    yield
    for folder in list(decoded._open):
        close_store(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return written(tmp_path_factory.mktemp("images") / "all")


def listed(paths, pipeline):
    return Listed(ann_file=paths, pipeline=pipeline)


def read(data, epochs=2, seed=5):
    """Inputs of all samples, epoch by epoch, and what is said of them."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    samples = [data[i] for _ in range(epochs) for i in range(len(data))]
    facts = [dict(one["data_samples"].all_items()) for one in samples]
    return [one["inputs"] for one in samples], [{k: v for k, v in f.items() if k != "gt_label"} for f in facts]


def same(one, other):
    return all(map(torch.equal, one[0], other[0])) and one[1] == other[1] and len(one[0]) == len(other[0])


@pytest.fixture
def decodings(monkeypatch):
    """Counts the files that are decoded."""
    counted = []
    plain = LoadImage.read
    monkeypatch.setattr(LoadImage, "read", staticmethod(lambda path, *a: counted.append(path) or plain(path, *a)))
    return counted


@pytest.mark.parametrize("name", PIPELINES)
def test_the_same_bits(name, files, tmp_path):
    pipeline, length = PIPELINES[name]
    # mmcv's own reader takes no grey of 16 bits with alpha and the like in the same way; it reads what it reads.
    paths = files if pipeline[0] is LOAD else files[:2] + files[3:6]
    plain, said = read(listed(paths, pipeline)), []
    kept = listed(paths, pipeline)
    assert head_length(kept.pipeline.transforms) == length
    keep_decoded(kept, tmp_path / "store", LIMIT, said.append)
    assert same(plain, read(kept))  # an epoch that fills the store and one that reads it
    assert same(plain, read(kept))
    assert len(open_store(tmp_path / "store", LIMIT)) == len(paths)
    assert said == []
    release(kept)
    assert head_length(kept.pipeline.transforms) == length
    assert same(plain, read(kept))


def test_each_image_is_decoded_once(files, tmp_path, decodings):
    kept = listed(files, PIPELINES["crop and flip"][0])
    keep_decoded(kept, tmp_path, LIMIT, print)
    read(kept, epochs=3)
    assert decodings == files
    again = listed(files[::-1], PIPELINES["crop and flip"][0])  # of another run
    close_store(tmp_path)
    keep_decoded(again, tmp_path, LIMIT, print)
    read(again)
    assert decodings == files


def test_what_is_read_may_be_changed_in_place(files, tmp_path):
    head = StoredHead(Compose([LOAD]).transforms, str(tmp_path), LIMIT)
    for _ in range(3):
        image = head({"img_path": files[0]})["img"]
        assert np.array_equal(image, LoadImage.read(files[0]))
        assert image.flags.c_contiguous
        assert image.flags.writeable
        image[:] = 0


def test_a_picture_changed_under_its_name_size_and_time(tmp_path):
    file = tmp_path / "picture.bmp"
    Image.fromarray(pixels(1)).save(file)
    before = os.stat(file)
    kept = listed([str(file)], [LOAD, SQUARE, PACK])
    keep_decoded(kept, tmp_path / "store", LIMIT, print)
    old = read(kept)
    Image.fromarray(pixels(2)).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(file)
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    new = read(kept)
    assert same(new, read(listed([str(file)], [LOAD, SQUARE, PACK])))
    assert not same(new, old)


def test_a_picture_changed_while_it_is_decoded_is_not_kept(tmp_path, monkeypatch):
    file = tmp_path / "picture.png"
    Image.fromarray(pixels(1)).save(file)
    plain = LoadImage.read

    def changing(path, *args):
        Image.fromarray(pixels(2)).save(file)
        return plain(path, *args)

    monkeypatch.setattr(LoadImage, "read", staticmethod(changing))
    head = StoredHead(Compose([LOAD]).transforms, str(tmp_path / "store"), LIMIT)
    assert np.array_equal(head({"img_path": str(file)})["img"], pixels(2)[..., ::-1])
    assert len(open_store(tmp_path / "store", LIMIT)) == 0


def test_settings_and_libraries_are_in_the_key(files, tmp_path, monkeypatch):
    def key(*pipeline):
        return StoredHead(Compose(pipeline).transforms, str(tmp_path), LIMIT).key(b"contents")

    keys = [
        key(LOAD),
        key(LOAD, SQUARE),
        key(LOAD, {**SQUARE, "interpolation": "bilinear"}),
        key(LOAD, EDGE),
        key({**LOAD, "exif": False}),
        key({"type": "LoadImageFromFile"}),
        key({"type": "LoadImageFromFile", "color_type": "grayscale"}),
    ]
    assert key(LOAD, SQUARE) == keys[1]
    monkeypatch.setattr(Image.core, "jpeglib_version", "9.9", raising=False)
    decoded._libraries.cache_clear()
    keys.append(key(LOAD))
    decoded._libraries.cache_clear()
    monkeypatch.setattr("mmcv.__version__", "9.9")
    keys.append(key(LOAD, SQUARE))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ([{"type": "LoadImageFromFile", "to_float32": True}], "begins with LoadImageFromFile"),
        ([{"type": "LoadImageFromFile", "imdecode_backend": None}], "begins with LoadImageFromFile"),
        ([{"type": "LoadImageFromFile", "backend_args": {"backend": "local"}}], "begins with LoadImageFromFile"),
        ([RANDOM_RESIZED], "begins with RandomResizedCrop"),
        ([], "begins with nothing"),
    ],
)
def test_what_does_not_begin_with_plain_reading(first, why, files, tmp_path):
    said = []
    kept = listed(files, first)
    keep_decoded(kept, tmp_path, LIMIT, said.append)
    assert len(said) == 1
    assert f"images of Listed ({len(files)}) are decoded anew in every epoch: its pipeline {why}" in said[0]
    assert not any(isinstance(one, StoredHead) for one in kept.pipeline.transforms)


def test_images_in_memory_are_left_there(tmp_path):
    said = []
    keep_decoded(MiniVTAB("digits", "val200", pipeline=[LOAD, SQUARE, PACK]), tmp_path, LIMIT, said.append)
    assert said == ["images of MiniVTAB (200) are decoded anew in every epoch: they lie in memory."]


class Better(LoadImage):
    """Does something else."""


def test_subclasses_are_not_taken_for_their_base(files):
    assert head_length([Better()]) == 0
    assert head_length([LoadImage()]) == 1


def test_whole_images_that_do_not_fit(files, tmp_path):
    large = tmp_path / "large.png"
    Image.new("RGB", (900, 800)).save(large)
    said = []
    kept = listed([str(large)] * 3, [LOAD, RANDOM_RESIZED, PACK])
    keep_decoded(kept, tmp_path / "small", 2_000_000, said.append)
    assert len(said) == 1
    assert "RandomResizedCrop comes right behind reading, so they would be kept whole, about 0.00648 GB" in said[0]
    assert "and the store has room for 0.00199 GB." in said[0]
    sized = listed([str(large)] * 3, [LOAD, SQUARE, PACK])
    keep_decoded(sized, tmp_path / "small", 2_000_000, said.append)
    assert len(said) == 1


def test_whole_images_that_are_there_need_no_room(tmp_path):
    paths = []
    for number in range(2):
        Image.fromarray(pixels(number, size=(400, 500))).save(tmp_path / f"{number}.png")
        paths.append(str(tmp_path / f"{number}.png"))
    said = []
    for _ in range(2):  # 1.2 MB of 2
        kept = listed(paths, [LOAD, RANDOM_RESIZED, PACK])
        keep_decoded(kept, tmp_path / "store", 2_000_000, said.append)
        read(kept)
    assert said == []
    assert len(open_store(tmp_path / "store", 2_000_000)) == 2


def test_whole_images_larger_than_memory(files, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "_memory", lambda: 50_000)
    said = []
    keep_decoded(listed(files, [LOAD, RANDOM_RESIZED, PACK]), tmp_path, LIMIT, said.append)
    assert "more than half of this machine's memory" in said[0]


def test_a_full_store_goes_on(files, tmp_path, decodings):
    paths = []
    for number in range(6):
        Image.fromarray(pixels(number, size=(300, 300))).save(tmp_path / f"{number}.png")
        paths.append(str(tmp_path / f"{number}.png"))
    pipeline = [LOAD, {"type": "Resize", "scale": (320, 320)}, FLIP, PACK]  # 307,200 bytes each
    plain = read(listed(paths, pipeline))
    kept = listed(paths, pipeline)
    keep_decoded(kept, tmp_path / "store", 10**6, print)
    decodings.clear()
    assert same(plain, read(kept))
    store = open_store(tmp_path / "store", 10**6)
    assert (len(store), store.full) == (3, True)
    assert len(decodings) == 6 + 3
    assert store.used <= 10**6


def test_a_record_that_is_damaged_is_decoded_again(files, tmp_path, decodings):
    kept = listed(files, [LOAD, SQUARE, PACK])
    plain = read(listed(files, [LOAD, SQUARE, PACK]))
    keep_decoded(kept, tmp_path, LIMIT, print)
    read(kept, epochs=1)
    store = open_store(tmp_path, LIMIT)
    (key, record), *_ = store._base.begin().cursor()
    store.put({bytes(key): bytes(record)[:-1] + bytes([record[-1] ^ 1])})
    decodings.clear()
    assert same(plain, read(kept))
    assert len(decodings) == 1  # and kept again


@pytest.mark.parametrize("damage", ["cut", "garbage", "zeros"])
def test_a_damaged_store_is_made_anew(damage, files, tmp_path, caplog):
    plain = read(listed(files, [LOAD, EDGE, PACK]))
    kept = listed(files, [LOAD, EDGE, PACK])
    keep_decoded(kept, tmp_path / "store", LIMIT, print)
    read(kept, epochs=1)
    close_store(tmp_path / "store")
    data = tmp_path / "store" / "data.mdb"
    content = data.read_bytes()
    broken = {
        "cut": content[: len(content) // 2],
        "garbage": b"x" * len(content),
        "zeros": content[:8192] + bytes(len(content) - 8192),
    }
    data.write_bytes(broken[damage])
    kept = listed(files, [LOAD, EDGE, PACK])
    keep_decoded(kept, tmp_path / "store", LIMIT, print)
    assert len(open_store(tmp_path / "store", LIMIT)) == 0
    assert same(plain, read(kept))
    assert len(open_store(tmp_path / "store", LIMIT)) == len(files)


def test_another_program_s_file_is_left_alone(files, tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"of a database of another kind" * 1000)
    with pytest.raises(UserError, match="cannot be opened"):
        keep_decoded(listed(files, [LOAD]), tmp_path, LIMIT, print)
    assert (tmp_path / "data.mdb").stat().st_size == 29_000


def test_a_folder_that_cannot_be_made_is_refused(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"store .*file/inside cannot be opened .*: give a folder that can be written"):
        keep_decoded(listed(files, [LOAD]), tmp_path / "file" / "inside", LIMIT, print)


def test_a_store_that_is_lost_in_a_run(files, tmp_path):
    """As a worker finds it whose disk has become read-only."""
    kept = listed(files, [LOAD, SQUARE, PACK])
    keep_decoded(kept, tmp_path / "store", LIMIT, print)
    close_store(tmp_path / "store")
    for file in (tmp_path / "store").iterdir():
        file.unlink()
    (tmp_path / "store").rmdir()
    (tmp_path / "store").write_text("no folder")
    assert same(read(listed(files, [LOAD, SQUARE, PACK])), read(kept))


def test_data_sets_inside_others(files, tmp_path):
    parts = [listed(files[:3], [LOAD, SQUARE, PACK]), listed(files[3:], [LOAD, EDGE, PACK])]
    keep_decoded(Subset(ConcatDataset(parts), [0]), tmp_path, LIMIT, print)
    assert all(isinstance(one.pipeline.transforms[0], StoredHead) for one in parts)


def test_what_sizing_changes_beside_the_image_is_made(files, tmp_path):
    head = StoredHead(Compose([LOAD, SQUARE]).transforms, str(tmp_path), LIMIT)
    boxes = np.array([[0.0, 0.0, 53.0, 41.0]])
    for _ in range(2):
        results = head({"img_path": files[0], "gt_bboxes": boxes})
        assert np.allclose(results["gt_bboxes"], [[0, 0, 24, 24]])
    assert len(open_store(tmp_path, LIMIT)) == 0


def test_broken_files_are_named_as_before(files, tmp_path):
    file = tmp_path / "cut.jpg"
    whole = Path(files[0]).read_bytes()
    kept = listed([str(file)], [LOAD, SQUARE, PACK])
    file.write_bytes(whole)
    keep_decoded(kept, tmp_path / "store", LIMIT, print)
    kept[0]
    for content, what in ((whole[: len(whole) // 2], "is truncated or no image"), (b"", "is empty")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=what):
            kept.prepare_data(0)
    file.unlink()
    with pytest.raises(UserError, match="does not exist"):
        kept.prepare_data(0)


def _seeded(number, seed):
    random.seed(seed + number), np.random.seed(seed + number)


def _inputs(batch):
    return torch.stack([one["inputs"] for one in batch])


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_share_it(start, files, tmp_path):
    pipeline = [LOAD, EDGE, CROP, FLIP, PACK]

    def epochs(data, count):
        found = []
        for epoch in range(count):
            loader = DataLoader(
                data,
                4,
                num_workers=2,
                multiprocessing_context=start,
                worker_init_fn=functools.partial(_seeded, seed=epoch),
                collate_fn=_inputs,
                generator=torch.Generator().manual_seed(epoch),
            )
            found += list(loader)
        return found

    data = listed(files * 2, pipeline)
    plain = epochs(data, 2)
    keep_decoded(data, tmp_path, LIMIT, print)
    store = open_store(tmp_path, LIMIT)  # stays open here, as where validation reads without workers
    kept = epochs(data, 2)
    assert len(store) == len(files)
    assert all(map(torch.equal, plain, kept))
    assert len(plain) == len(kept) == 2 * len(files) * 2 / 4


def _fill(folder, paths):
    DefaultScope.get_instance("fill", scope_name="mmpretrain")
    data = listed(paths, [LOAD, EDGE, PACK])
    keep_decoded(data, folder, LIMIT, print)
    for index in range(len(data)):
        data[index]


def test_runs_fill_it_at_once(files, tmp_path):
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=_fill, args=(tmp_path, files[i:] + files[:i])) for i in range(4)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    assert [one.exitcode for one in runs] == [0] * 4
    kept = listed(files, [LOAD, EDGE, PACK])
    keep_decoded(kept, tmp_path, LIMIT, print)
    assert len(open_store(tmp_path, LIMIT)) == len(files)
    assert same(read(listed(files, [LOAD, EDGE, PACK])), read(kept))


def test_a_data_set_is_pickled_with_its_head(files, tmp_path):
    kept = listed(files, [LOAD, EDGE, PACK])
    keep_decoded(kept, tmp_path, LIMIT, print)
    plain = read(kept)
    assert same(plain, read(pickle.loads(pickle.dumps(kept))))


def test_records_hold_numbers_texts_and_tuples_alone():
    image = pixels(1)
    rest = {"shape": (3, 4.5, True, None, "a"), "factor": (1.0, 0.1 + 0.2)}
    found = decoded.sample_of(decoded.record_of({"img": image, **rest}))
    assert np.array_equal(found.pop("img"), image)
    assert (found, [type(value) for value in found["shape"]]) == (rest, [int, float, bool, type(None), str])
    for other in (np.float64(1), float("nan"), object(), {1: 2}, (np.int64(3),)):
        assert decoded.record_of({"img": image, "other": other}) is None
    assert decoded.record_of({"img": image.astype(np.float32)}) is None
    assert decoded.sample_of(b"") is None
