"""Runs whose images are decoded once: the same weights, a store that goes or stays, one that runs share."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine import Config
from PIL import Image
from safetensors.torch import load_file
from support import own

from vpeft.apis.benchmark.plan import Plan
from vpeft.apis.benchmark.run_plan import benchmark
from vpeft.apis.commands.words.run.train import main as train_word
from vpeft.apis.commands.words.study.tune import main as tune_word
from vpeft.apis.config.load import load_config
from vpeft.apis.config.own.compose import OwnOptions
from vpeft.apis.config.own.defaults import STORE
from vpeft.apis.config.own.from_data import run_on_data
from vpeft.apis.config.setting import setting_hash
from vpeft.apis.jobs import shared_store
from vpeft.apis.jobs.shared_store import share_store, store_asked
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.train import train
from vpeft.core.datasets import decoded
from vpeft.core.datasets.load.image import LoadImage
from vpeft.core.hooks.data_store import DataStore
from vpeft.core.store import Store
from vpeft.errors import UserError

ROOM = 100 * 10**9


@pytest.fixture(autouse=True)
def _closed(monkeypatch):
    """A disk with room, and no store left open."""
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(ROOM, 0, ROOM))
    yield
    for folder in list(decoded._open):
        decoded.close_store(folder)


@pytest.fixture
def decodings(monkeypatch):
    counted, plain = [], LoadImage.read
    monkeypatch.setattr(LoadImage, "read", staticmethod(lambda path, *a: counted.append(path) or plain(path, *a)))
    return counted


def said(work):
    return "".join(file.read_text() for file in Path(work).rglob("*.log"))


def weights(folder):
    return load_file(folder / "adapter.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_own_images_are_decoded_once_and_nothing_is_left(tmp_path, decodings):
    data, found = own.class_folder(tmp_path / "data", each=8), {}
    for name, flags in {"kept": [], "plain": ["--data-store", "off"]}.items():
        decodings.clear()
        work = tmp_path / name
        train_word([str(data), "--work-dir", str(work), "--epochs", "4", *flags])
        found[name] = len(decodings)
        assert not (work / "decoded").exists()
    assert equal(weights(tmp_path / "kept"), weights(tmp_path / "plain"))
    train_part, val_part = 19, 5
    assert found["plain"] - found["kept"] == 3 * (train_part + val_part)  # three of four epochs, with a look each
    assert "decoded images: 24 kept in" in said(tmp_path / "kept")
    assert "decoded images" not in said(tmp_path / "plain")


def test_detection_by_iterations(tmp_path):
    """Whole images of boxes; the loop over iterations starts its workers as it is built."""
    data = own.coco(tmp_path / "data", each=4)
    for name, flag in {"kept": "50MB", "plain": "off"}.items():
        run = run_on_data(data, OwnOptions(epochs=1), work_dir=str(tmp_path / name))
        cfg = prepare(run.cfg, run.work_dir, data_store=flag)
        cfg.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": 12, "val_interval": 12}
        cfg.train_dataloader.merge({"num_workers": 2, "sampler": {"type": "InfiniteSampler", "shuffle": True}})
        cfg.param_scheduler, cfg.default_hooks.checkpoint = (
            None,
            {"type": "CheckpointHook", "interval": 12, "by_epoch": False},
        )
        cfg.log_processor = {"by_epoch": False}
        train(cfg)
    assert equal(weights(tmp_path / "kept"), weights(tmp_path / "plain"))
    assert "decoded images: 8 kept in" in said(tmp_path / "kept")


def vtab(root, task="dtd", each=2):
    """A task of VTAB-1k in its layout, of few images."""
    for split, count in (("train800", 8 * each), ("val200", 8), ("test", 8)):
        lines = []
        for number in range(count):
            file = root / task / "images" / split / f"{number:06d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([len(split), number]).integers(0, 256, (60, 80, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(file)
            lines.append(f"images/{split}/{number:06d}.jpg {number % 8}\n")
        (root / task / f"{split}.txt").write_text("".join(lines))
    both = (root / task / "train800.txt").read_text() + (root / task / "val200.txt").read_text()
    (root / task / "train800val200.txt").write_text(both)
    return root


@pytest.fixture
def config(tmp_path):
    """A config of the suite of lists on the small host."""
    base = load_config("vpeft::mini/lora_nano_vit.py")
    options = {"data_root": str(vtab(tmp_path / "vtab")), "image_size": 32, "train_split": "train800"}
    cfg = load_config("vpeft::vtab/lora_vit.py", "dtd", options)
    cfg.model.backbone, cfg.model.head.in_channels = base.model.backbone, base.model.head.in_channels
    cfg.load_from, cfg.train_cfg.max_epochs = None, 2
    cfg.param_scheduler = []
    cfg.train_split = "train800val200"
    for part in ("train", "val", "test"):
        cfg[f"{part}_dataloader"].num_workers = 0
    file = tmp_path / "lora_nano_vit.py"
    file.write_text(cfg.pretty_text)
    return str(file)


def test_runs_of_a_benchmark_share_one(config, tmp_path, decodings):
    found = {}
    for name, store, seeds in (("kept", "20GB", [0, 1]), ("plain", "off", [1])):
        plan = Plan(configs=[config], tasks=["dtd"], seeds=seeds, data_store=store)
        for job in plan.jobs(str(tmp_path / name), store=store):
            decodings.clear()
            job.run()
        found[name] = (job.result()["hash"], job.result()["main_metric"], len(decodings))
        found[f"{name} weights"] = load_file(tmp_path / name / job.result()["checkpoint"])
    looks = 24 + 8  # what a run costs is measured on a batch of training and one of test, by itself
    assert found["kept"] == (*found["plain"][:2], looks)
    assert found["plain"][2] == 2 * 24 + 8 + looks
    assert equal(found["kept weights"], found["plain weights"])
    assert len(decoded.open_store(tmp_path / "kept" / "decoded", 20 * 10**9)) == 16 + 8 + 8
    assert not (tmp_path / "plain" / "decoded").exists()


@pytest.mark.parametrize(
    ("asked", "shown"), [(None, "decoded once, up to 20GB in"), ("off", "decoded anew in every run")]
)
def test_a_plan_says_what_becomes_of_images(asked, shown, config, tmp_path, capfd):
    plan = Plan(configs=[config], tasks=["dtd"], seeds=[0], data_store=asked)
    assert benchmark(plan, str(tmp_path / "out"), dry_run=True) == []
    assert f"images     {shown}" in capfd.readouterr().err


def test_trials_share_one(config, tmp_path):
    tune_word([config, "--trials", "1", "--out", str(tmp_path / "out"), "--data-store", "60MB", "--workers", "1"])
    assert len(Store(tmp_path / "out" / "decoded", "60MB")) == 16 + 8


def test_by_default_it_is_for_lists_on_one_machine(config, tmp_path, monkeypatch):
    jobs = Plan(configs=[config], tasks=["dtd"], seeds=[0]).jobs(str(tmp_path), store="20GB")
    assert [job.data_store for job in jobs] == ["20GB"]
    embedded = Plan(["lora"], tasks=["digits"], seeds=[0])
    assert [job.data_store for job in embedded.jobs(str(tmp_path), store="20GB")] == [None]
    assert store_asked(None, tmp_path, one_machine=True)[0] == "20GB"
    assert store_asked(None, tmp_path, one_machine=False)[0] == "off"
    assert store_asked("3GB", tmp_path, one_machine=False)[0] == "3GB"
    assert store_asked("off", tmp_path, one_machine=True)[0] == store_asked(False, tmp_path, True)[0] == "off"
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(ROOM, 61 * 10**9, 39 * 10**9))
    assert store_asked(None, tmp_path, one_machine=True)[0] == "off"
    with pytest.raises(UserError, match="give bytes or a size"):
        store_asked("many", tmp_path, one_machine=True)


def test_by_default_it_is_for_few_images(tmp_path, monkeypatch):
    data = own.class_folder(tmp_path / "data", each=4)

    def limit(options=None):
        return run_on_data(data, OwnOptions(options=options or {}), work_dir=str(tmp_path / "run")).cfg.data_store.limit

    assert limit() == STORE == "5GB"
    assert limit({"data_store.limit": None}) is None
    assert limit({"data_store.limit": "7GB"}) == "7GB"
    monkeypatch.setattr("vpeft.apis.config.own.from_data.SMALL", 11)
    assert limit() is None
    monkeypatch.setattr("vpeft.apis.config.own.from_data.SMALL", 12)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(ROOM, 91 * 10**9, 9 * 10**9))
    assert limit() is None


def test_clips_have_none(tmp_path):
    run = run_on_data(own.frames(tmp_path / "data", each=4), work_dir=str(tmp_path / "run"))
    assert run.cfg.data_store.limit is None


def test_it_is_no_other_setting(config):
    one, other = load_config(config), load_config(config, options={"data_store.limit": "3GB"})
    assert setting_hash(one) == setting_hash(other)


def test_a_folder_that_is_named_stays(tmp_path, decodings):
    data, shared = own.class_folder(tmp_path / "data", each=4), tmp_path / "shared"
    for name in ("one", "two"):
        decodings.clear()
        options = [f"data_store.folder={shared}", "data_store.limit=20MB"]
        train_word([str(data), "--work-dir", str(tmp_path / name), "--epochs", "1", "--cfg-options", *options])
    assert len(decodings) == 12  # of looking at the data before the training
    assert len(Store(shared, "20MB")) == 12


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"limits": "5GB"}, "data_store has no 'limits': did you mean 'limit'"),
        ({"limit": "five"}, "give bytes or a size"),
        ({"limit": "10MB", "folder": "{file}/inside"}, "cannot be opened"),
    ],
)
def test_what_is_wrong_is_refused_before_training(settings, why, tmp_path):
    (tmp_path / "file").write_text("")
    cfg = load_config("vpeft::mini/lora_nano_vit.py", "digits")
    cfg.data_store = {key: value.format(file=tmp_path / "file") for key, value in settings.items()}
    with pytest.raises(UserError, match=why):
        train(prepare(cfg, str(tmp_path / "run")))


def test_what_nobody_asked_for_stops_no_run(tmp_path, monkeypatch):
    data, work = own.class_folder(tmp_path / "data", each=4), tmp_path / "run"
    work.mkdir()
    (work / "decoded").write_text("no folder")
    train_word([str(data), "--work-dir", str(work), "--epochs", "1"])
    assert "images are decoded anew in every epoch: store" in said(work)
    cfg = share_store(Config({"data_store": {"limit": "5GB"}, "work_dir": str(work)}), tmp_path)
    assert DataStore.of(cfg) == DataStore(tmp_path / "decoded", 5 * 10**9, is_own=False, is_named=False)
    cfg = Config({"data_store": {"limit": "5GB"}, "work_dir": str(work)})
    monkeypatch.setenv("SLURM_NNODES", "2")
    lines = []
    assert DataStore.started(cfg, SimpleNamespace(logger=SimpleNamespace(warning=lines.append))) is None
    assert "the run is of several machines" in lines[0]


def test_a_flag_against_an_option(tmp_path):
    cfg = load_config("vpeft::mini/lora_nano_vit.py", "digits", {"data_store.limit": "3GB"})
    with pytest.raises(UserError, match="contradicts --data-store off"):
        prepare(cfg, str(tmp_path), data_store="off")


def test_a_config_asks_for_none():
    assert DataStore.of(load_config("vpeft::mini/lora_nano_vit.py")) is None
    assert shared_store.SHARED_LIMIT == "20GB"
