"""Top-level names: settings, variables of a config's file, and slips."""

from pathlib import Path

import pytest

from vpeft.apis.config.keys.options import check_keys
from vpeft.apis.config.load import load_config
from vpeft.core.trained.folder import ORIGIN
from vpeft.errors import UserError

NANO = Path(__file__).parents[4] / "configs/mini/lora_nano_vit.py"
#: As OpenMMLab's: variables, put in where they are used.
PLAIN = """
dataset_type = 'CIFAR10'
data_root = 'data/cifar'
models = dict(type='ToyModel')
model = models
train_pipeline = [dict(type='PackInputs')]
train_dataloader = dict(batch_size=2, dataset=dict(type=dataset_type, data_root=data_root, pipeline=train_pipeline))
my_number = 3
"""


def write(folder, text, name="own.py"):
    file = folder / name
    file.write_text(text)
    return file


@pytest.fixture
def plain(tmp_path):
    return write(tmp_path, PLAIN)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("feature_cahce", "feature_cache"),
        ("strateggy", "strategy"),
        ("radnomness", "randomness"),
        ("default_hook", "default_hooks"),
        ("optim_wraper", "optim_wrapper"),
        ("normalization", "normalisation"),
        ("train_cgf", "train_cfg"),
        ("load_form", "load_from"),
        ("resum", "resume"),
        ("custom_hook", "custom_hooks"),
        ("val_evalutor", "val_evaluator"),
    ],
)
def test_a_slip_in_a_file_is_refused(tmp_path, name, near):
    file = write(tmp_path, f"_base_ = [{str(NANO)!r}]\n{name} = dict(limit='1GB')\n")
    with pytest.raises(UserError, match=f"own.py: '{name}' is no setting, and is used nowhere: did you mean '{near}'"):
        load_config(file, "digits")


@pytest.mark.parametrize(
    "lines",
    [
        "_feature_cahce = 1",
        "models = 'LoRA'\ncomment = f'{models}'",
        "tasks = 4\nmodel = dict(backbone=dict(drop_path_rate=0.1 / tasks))",
        "my_own = dict(limit='1GB')\nnorm_cfg = dict(type='LN')",
        "train_cfg = _base_.train_cfg",
        "test_pipeline = []\ngallery_dataloader = dict(batch_size=2)",
    ],
)
def test_names_of_ones_own_are_legal(tmp_path, lines):
    load_config(write(tmp_path, f"_base_ = [{str(NANO)!r}]\n{lines}\n"), "digits")


def test_a_base_s_variable_may_be_used_by_the_file_above_it(tmp_path):
    write(tmp_path, f"_base_ = [{str(NANO)!r}]\ntasks = 4\n", "below.py")
    for used in ("{{_base_.tasks}}", "_base_.tasks"):
        load_config(write(tmp_path, f"_base_ = ['below.py']\nown = {used}\n"), "digits")
    with pytest.raises(UserError, match="'tasks' is no setting"):
        load_config(tmp_path / "below.py", "digits")


def test_what_only_a_suite_reads_is_free_without_one(plain):
    file = write(plain.parent, f"{PLAIN}img_size = 3\ntasks = 4\n", "free.py")
    assert load_config(file).img_size == 3
    with pytest.raises(UserError, match="image_size=5: nothing follows from it in a config without `suite`"):
        load_config(file, options={"image_size": 5})


@pytest.mark.parametrize("is_dumped", [False, True])
def test_an_option_on_a_variable_is_of_no_effect(plain, tmp_path, is_dumped):
    if is_dumped:  # it uses no variables any more, and the values stand where they were put in
        plain = tmp_path / "dumped.py"
        load_config(tmp_path / "own.py").dump(str(plain))
    for key, place in (
        ("data_root", "train_dataloader.dataset.data_root"),
        ("train_pipeline.0.type", "train_dataloader.dataset.pipeline"),
        ("dataset_type", "train_dataloader.dataset.type"),
    ):
        with pytest.raises(UserError, match=rf"{key}=.* is a variable of the config's file, .*\(as {place}\)"):
            load_config(plain, options={key: "elsewhere"})
    options = {"my_number": 4, "train_dataloader.dataset.data_root": "elsewhere"}
    cfg = load_config(plain, options=options)
    assert (cfg.my_number, cfg.train_dataloader.dataset.data_root) == (4, "elsewhere")


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_slips_in_other_languages(tmp_path, ending):
    file = tmp_path / f"own.{ending}"
    load_config(NANO, "digits").dump(str(file))
    load_config(file)
    text = file.read_text()
    file.write_text(f'{{"strateggy": 1, {text[1:]}' if ending == "json" else f"strateggy: 1\n{text}")
    with pytest.raises(UserError, match="did you mean 'strategy'"):
        load_config(file)


def test_bases_of_other_packages_pass(tmp_path):
    base = "mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k.py"
    cfg = load_config(write(tmp_path, f"_base_ = [{base!r}]\n"))
    check_keys(cfg, {}, base)
    assert cfg.train_cfg.max_epochs == 300
    with pytest.raises(UserError, match="did you mean 'max_epochs'"):
        load_config(tmp_path / "own.py", options={"train_cfg.max_epoch": 1})


def test_the_config_of_a_run_is_read_again(plain, tmp_path):
    load_config(plain, options={"work_dir": "there"}).dump(str(tmp_path / "run.py"))
    assert not (tmp_path / ORIGIN).exists()
    assert load_config(tmp_path / "run.py").models == {"type": "ToyModel"}
