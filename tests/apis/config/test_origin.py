"""The order in which a config comes to be, and the record of it."""

import copy
import json
from pathlib import Path

import pytest

from vpeft.apis.config.load import default_work_dir, load_config
from vpeft.apis.config.origin import flatten, origin_of, set_by_command, why
from vpeft.apis.config.setting import QuickConfig, effective_config
from vpeft.apis.run.prepare import prepare
from vpeft.apis.tune.trial import trial_config
from vpeft.errors import UserError

ROOT = Path(__file__).parents[3]
NANO, SSF = ROOT / "configs/mini/lora_nano_vit.py", ROOT / "configs/vtab/ssf_vit.py"


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def value(cfg, key):
    return flatten(cfg._cfg_dict.to_dict())[key]


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("data_preprocessor.mean", [1.0, 2.0, 3.0]),
        ("train_dataloader.dataset.pipeline.1.scale", (40, 40)),
        ("optim_wrapper.optimizer.lr", 0.5),
        ("env_cfg.dist_cfg.backend", "nccl"),
        ("work_dir", "elsewhere"),
    ],
)
def test_what_the_user_sets_stands_above_what_a_task_derives(key, wanted):
    assert value(load_config(NANO, "digits", {key: wanted}), key) == wanted


def test_a_whole_pipeline_and_the_config_that_is_read_again(tmp_path):
    pipeline = [{"type": "vpeft.LoadImage"}, {"type": "PackInputs"}]
    options = {"train_dataloader.dataset.pipeline": pipeline, "data_preprocessor.std": [9.0, 9.0, 9.0]}
    cfg = load_config(NANO, "photos", options)
    cfg.dump(tmp_path / "again.py")
    again = load_config(tmp_path / "again.py")
    for one in (cfg, again):
        assert [step["type"] for step in one.train_dataloader.dataset.pipeline] == ["vpeft.LoadImage", "PackInputs"]
        assert [step["type"] for step in one.test_dataloader.dataset.pipeline][1] == "Resize"
        assert one.data_preprocessor.std == [9.0, 9.0, 9.0]
        assert (one.augmentation, one.normalisation) == ("own", "own")


@pytest.mark.parametrize(
    ("key", "wanted", "message"),
    [
        ("model.head.num_classes", 3, "10 follows from task: set that instead"),
        ("data_preprocessor.num_classes", 3, "10 follows from task"),
        ("train_dataloader.dataset.split", "test", "'train800val200' follows from train_split"),
        ("test_dataloader.dataset.split", "val200", "'test' follows from eval_split"),
        ("test_dataloader.dataset.task", "photos", "'digits' follows from task"),
        ("test_dataloader.dataset.shift", "noise-3", "follows from shift"),
        ("model.backbone.img_size", 64, "32 follows from image_size"),
        ("val_dataloader.batch_size", 7, "is of no effect: train_split=train800val200"),
        ("imagesize", 64, "no such field: did you mean 'image_size'"),
        ("train_dataloader.dataset.pipeline.9.scale", 3, "does not fit the config"),
        ("task", "photos", "--task digits and --cfg-options task=photos contradict"),
        ("model.head", {"type": "LinearClsHead", "num_classes": 3}, "follows from task"),
    ],
)
def test_what_cannot_stand_is_refused_with_the_field_that_does_it(key, wanted, message):
    with pytest.raises(UserError, match=message) as error:
        load_config(NANO, "digits", {key: wanted})
    assert "\n" not in str(error.value)


def test_the_same_value_is_no_contradiction():
    options = {"model.head.num_classes": 10, "train_dataloader.dataset.split": "train800val200", "task": "digits"}
    assert load_config(NANO, "digits", options).model.head.num_classes == 10


def test_options_that_choose_act_through_what_follows():
    options = {"task": "photos", "train_split": "train800", "image_size": 48, "augmentation": "flip"}
    cfg = load_config(NANO, options=options)
    assert (cfg.model.head.num_classes, cfg.model.backbone.img_size) == (8, 48)
    assert (cfg.train_dataloader.dataset.task, cfg.train_dataloader.dataset.split) == ("photos", "train800")
    assert cfg.train_dataloader.dataset.pipeline[1]["scale"] == (48, 48)
    assert load_config(NANO, options={"suite": None, "model.head.num_classes": 3}).model.head.num_classes == 3


def test_flags_and_options_that_contradict_each_other_are_refused(tmp_path):
    for options, kwargs, message in (
        ({"randomness.seed": 5}, {"seed": 3}, r"randomness\.seed=5 contradicts --seed, which sets .*=3"),
        ({"work_dir": "there"}, {}, "work_dir='there' contradicts --work-dir"),
        ({"launcher": "slurm"}, {"launcher": "pytorch"}, "launcher='slurm' contradicts --launcher"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(load_config(NANO, "digits", options), str(tmp_path), **kwargs)
    cfg = prepare(load_config(NANO, "digits", {"randomness.seed": 5, "experiment_name": "mine"}), str(tmp_path))
    assert (cfg.randomness.seed, cfg.experiment_name) == (5, "mine")
    assert prepare(load_config(NANO, "digits", {"randomness.seed": 5}), str(tmp_path), seed=5).randomness.seed == 5


def test_benchmark_and_tuning_keep_what_the_user_has_set():
    options = {"train_cfg.val_interval": 3, "log_level": "WARNING"}
    cfg = trial_config(str(NANO), "digits", options)
    assert (cfg.train_cfg.val_interval, cfg.train_split) == (3, "train800")
    assert trial_config(str(NANO), "digits", {}).train_cfg.val_interval == 4
    with pytest.raises(UserError, match="train_split='train800val200': a search sets train_split='train800' by itself"):
        trial_config(str(NANO), "digits", {"train_split": "train800val200"})
    assert QuickConfig.of(cfg).log_level == "WARNING"
    assert QuickConfig.of(trial_config(str(NANO), "digits", {})).log_level == "ERROR"
    with pytest.raises(UserError, match=r"indices=100 contradicts shots=1"):
        effective_config(str(NANO), "digits", {"train_dataloader.dataset.indices": 100}, {"shots": 1})


def test_why_names_each_step_and_the_value_before():
    cfg = load_config(SSF, "dtd", {"authors_values": True, "optim_wrapper.optimizer.weight_decay": 0.25})
    set_by_command(cfg, {"randomness.seed": 7}, "--seed")
    assert why(cfg, "optim_wrapper.optimizer.weight_decay").splitlines() == [
        "optim_wrapper.optimizer.weight_decay = 0.25",
        "    0.25  by --cfg-options, before: 5e-05",
        "    5e-05  by the authors' values, before: 0.25",
        "    0.25  by --cfg-options, before: 5e-05",
        "    5e-05  by configs/vtab/ssf_vit.py",
        "    0.0001  by configs/_base_/schedules/vtab.py",
    ]
    assert why(cfg, "model.head.num_classes").splitlines()[1] == "    47  by the task, before: 100"
    assert why(cfg, "randomness.seed").splitlines()[1] == "    7  by --seed, before: 0"
    assert why(cfg, "val_dataloader.batch_size").splitlines()[0] == "val_dataloader.batch_size: (not set)"
    with pytest.raises(UserError, match=r"--why optim_wraper\.optimizer: .* did you mean 'optim_wrapper.optimizer'"):
        why(cfg, "optim_wraper.optimizer")


def test_why_of_a_composed_config():
    text = why(load_config("configs/video/lora_vit-b_hmdb51.py"), "model.cls_head.num_classes")
    assert "51  by the data set 'hmdb51' of configs/video/_base_/vit-b.py, before: 174" in text
    method = why(load_config("configs/video/lora_vit-b_hmdb51.py"), "model.backbone.method.type")
    assert method.splitlines()[1] == "    'LoRA'  by the row 'lora' of the table 'video'"
    split = why(load_config("configs/fgvc/lora_vit.py"), "train_split").splitlines()
    assert split[1] == "    'train'  by the recipe configs/fgvc/_base_/vit.py, before: 'train800val200'"


def test_the_record_goes_along_with_copies_and_into_json():
    own = load_config(NANO, "digits").optim_wrapper.optimizer.lr
    cfg = load_config(NANO, "digits", {"optim_wrapper.optimizer.lr": 0.5})
    stored = json.loads(json.dumps(origin_of(copy.deepcopy(QuickConfig.of(cfg))).as_json("x.py")))
    assert stored["options"] == {"optim_wrapper.optimizer.lr": 0.5}
    assert [step["step"] for step in stored["steps"]][:4] == [
        f"the recipe {ROOT / 'configs/mini/_base_/nano_vit.py'}",
        "the row 'lora' of the table 'mini'",
        f"the search for rates in {ROOT / 'configs/mini/rates.csv'}",
        "--cfg-options",
    ]
    assert stored["steps"][2]["set"]["optim_wrapper.optimizer.lr"][1] == own
    assert stored["steps"][3]["set"] == {"optim_wrapper.optimizer.lr": [own, 0.5]}
    assert "origin" not in cfg.pretty_text


def test_two_seeds_have_two_folders():
    cfg = load_config(NANO, "digits")
    assert default_work_dir(NANO, cfg) == "work_dirs/lora_nano_vit_digits"
    assert default_work_dir(NANO, cfg, 0) == "work_dirs/lora_nano_vit_digits_seed0"
    assert default_work_dir(NANO, load_config(NANO, "digits", {"work_dir": "here"}), 1) == "here"
