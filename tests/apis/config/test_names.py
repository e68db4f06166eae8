"""What a config may be called, inside of the repository and outside."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from mmengine import Config
from support.configs import mini_configs
from support.design import ON_IMAGES

from vpeft import UserError
from vpeft.apis.catalogue import catalogue
from vpeft.apis.config.listing import config_files, config_names
from vpeft.apis.config.load import default_work_dir, load_config
from vpeft.apis.config.names import configs_folder, located, shown_name, with_method
from vpeft.apis.config.recipes import recipe_label

ROOT = Path(__file__).parents[3]
LORA = ROOT / "configs/mini/lora_nano_vit.py"


def test_configs_of_the_package_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located("vpeft::mini/lora_nano_vit.py") == LORA
    assert located("a/b.py") == Path("a/b.py")
    cfg = load_config("vpeft::mini/lora_nano_vit.py", "digits")
    assert cfg.to_dict() == load_config(LORA, "digits").to_dict()
    assert default_work_dir("vpeft::mini/lora_nano_vit.py", cfg) == "work_dirs/lora_nano_vit_digits"
    assert recipe_label("vpeft::mini/lora_nano_vit.py") == "nano_vit"


def test_outside_of_the_repository_names_are_those_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    inside = config_names()
    assert configs_folder() == Path("configs")
    assert shown_name(inside[0]) == inside[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()  # somebody's own, with no _base_
    assert configs_folder() == ROOT / "configs"
    outside = [row["name"] for row in catalogue("configs")]
    assert outside == [name.replace("configs/", "vpeft::", 1) for name in inside]
    with pytest.raises(UserError, match=r"did you mean 'vpeft::mini/lora_nano_vit\.py'\?"):
        load_config("configs/mini/lora_nano_vit.py")


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        ("vpeft::detection/lora_swin-b_coco.py", "model.backbone.method.type", "LoRA"),
        ("vpeft::vtab/lora_vit.py", "model.backbone.method.rank", 8),
        (str(LORA), "train_cfg.max_epochs", 20),
    ],
)
def test_they_are_bases_of_others(base, key, value, tmp_path):
    (tmp_path / "own.py").write_text(f"_base_ = [{base!r}]\nown = 3\n")
    cfg, theirs = load_config(tmp_path / "own.py").to_dict(), load_config(base).to_dict()
    found = cfg
    for part in key.split("."):
        found = found[part]
    assert found == value
    assert cfg.pop("own") == 3
    assert cfg == theirs
    assert "_scope_" not in str(Config.fromfile(tmp_path / "own.py"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vpeft::mini/lor_nano_vit.py", "no method 'lor': did you mean 'lora'"),
        (
            "vpeft::detection/swin-b_coco.py",
            "is a recipe, which needs a method: --method lora, or the name lora_swin-b",
        ),
        ("vpeft::vtab/lora_vitt.py", "vtab/lora_vit.py'"),
        ("nowhere::a.py", "there is no package 'nowhere'"),
        ("mmengine::a.py", "installed without its configs"),
    ],
)
def test_names_that_are_none(name, message, tmp_path):
    with pytest.raises(UserError) as refused:
        load_config(name)
    assert message in str(refused.value)
    (tmp_path / "own.py").write_text(f"_base_ = [{name!r}]\n")
    with pytest.raises(UserError, match=r"^config "):
        load_config(tmp_path / "own.py")


def test_a_recipe_with_a_method():
    assert with_method("configs/detection/swin-b_coco.py", "lora") == "configs/detection/lora_swin-b_coco.py"
    assert with_method("vpeft::mini/nano_vit.py", "lora") == "vpeft::mini/lora_nano_vit.py"
    assert with_method("nano_vit.py", "lora") == "lora_nano_vit.py"
    assert with_method("vpeft::nano_vit.py", "lora") == "vpeft::lora_nano_vit.py"
    assert with_method("a/b.py", None) == "a/b.py"
    with pytest.raises(UserError, match=r"--method mona: .*lora_vit\.py is a config that says itself what is trained"):
        with_method(str(ROOT / "configs/vtab/lora_vit.py"), "mona")


def test_every_mini_config_is_still_there():
    """They were files of their own: the names that scripts and results name."""
    names = {Path(path).stem for path in mini_configs()}
    assert len(names) == 2 * len(ON_IMAGES) - 6 + 2 + len(("bi_adaptformer", "bi_lora", "pace", "pace"))
    assert {f"noah_{kind}" for kind in ("nano_vit", "nano_swin", "supernet_nano_vit")} <= names
    assert {"lst_nano_vit", "hst_nano_vit", "last_nano_vit", "vqt_nano_vit"} <= names
    assert not {"lst_nano_swin", "hst_nano_swin", "last_nano_swin", "vqt_nano_swin"} & names
    assert [Path(path).name for path in config_files(ROOT / "configs/mini")] == [
        "glora_supernet_nano_vit.py",
        "noah_supernet_nano_vit.py",
        "vit_adapter_nano_vit_pyramid_segmentation.py",
        "vit_split_nano_vit.py",
    ]


def test_the_text_of_a_config_gives_the_same(tmp_path):
    for name in ("detection/lora_swin-b_coco.py", "mini/vptdeep_nano_swin.py"):
        cfg = load_config(ROOT / "configs" / name)
        (tmp_path / "out.py").write_text(cfg.pretty_text)
        assert Config.fromfile(tmp_path / "out.py").to_dict() == cfg.to_dict()


def test_mim_finds_the_leaf_configs():
    index = yaml.safe_load((ROOT / "model-index.yml").read_text())
    listed = [model["Config"] for model in index["Models"]]
    assert listed == [str(path.relative_to(ROOT)) for path in sorted((ROOT / "configs/vtab").glob("*.py"))]
    assert {model["Name"] for model in index["Models"]} == {Path(path).stem for path in listed}
    assert {model["In Collection"] for model in index["Models"]} == {one["Name"] for one in index["Collections"]}


@pytest.mark.slow
def test_the_wheel_works_outside_of_the_repository(tmp_path):
    source = tmp_path / "source"  # setuptools builds beside the sources, and takes along what it finds there
    source.mkdir()
    for folder in ("vpeft", "configs", "requirements"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.py", "pyproject.toml", "README.md", "model-index.yml", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / file, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, source]
    if subprocess.run([*build[:3], "--version"], capture_output=True).returncode:
        pytest.skip("there is no pip here")
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = tmp_path.glob("vpeft-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "site")
        names = set(packed.namelist())
    ours = {f"vpeft/.mim/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.py")}
    assert ours <= names
    assert {"vpeft/py.typed", "vpeft/.mim/model-index.yml"} <= names
    assert not [name for name in names if "__pycache__" in name]
    (text,) = (tmp_path / "site").glob("*.dist-info/entry_points.txt")
    assert "vpeft = vpeft.apis.commands.app:main" in text.read_text()
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [
        sys.executable,
        "-m",
        "vpeft",
        "config",
        "vpeft::mini/nano_vit.py",
        "--method",
        "lora",
        "--task",
        "digits",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "type='LoRA'" in done.stdout.replace('"', "'")
