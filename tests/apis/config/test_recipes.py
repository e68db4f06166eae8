"""Configs composed of a recipe and a row of a table of methods."""

import json
from pathlib import Path

import pytest
import torch
from test_tools import tool

from vpeft.apis.config.listing import config_names
from vpeft.apis.config.load import build_model, load_config
from vpeft.core.models.build import meta_build
from vpeft.errors import UserError

ROOT = Path(__file__).parents[3]
RECIPE = """
_base_ = [
    "{root}/configs/_base_/models/classification/nano_vit.py",
    "{root}/configs/_base_/schedules/mini.py",
    "{root}/configs/_base_/runtimes/default.py",
]
methods_table = "small"
without = dict(mona="it has no map here")
"""
TABLE = """
methods = dict(lora=dict(type="LoRA", rank=2), fact_tt=dict(type="FacT-TT", rank=4), mona=dict(type="Mona"))
options = dict(fact_tt={"optim_wrapper.optimizer.lr": 0.5})
"""


@pytest.fixture
def configs(tmp_path):
    """A folder of configs with one recipe and one table."""
    for name, text in {
        "_base_/methods/small.py": TABLE,
        "pets/_base_/nano_vit_pets.py": RECIPE.format(root=ROOT),
        "pets/_base_/vit_pets.py": RECIPE.format(root=ROOT),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_recipe_and_row(configs):
    cfg = load_config(configs / "pets/fact_tt_nano_vit_pets.py", options={"model.backbone.img_size": 64})
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.of) == ("vpeft.PEFT", "VisionTransformer")
    assert backbone.method == {"type": "FacT-TT", "rank": 4}
    assert backbone.arch.embed_dims == 64
    assert backbone.img_size == 64
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    assert Path(cfg.filename).name == "fact_tt_nano_vit_pets.py"
    assert load_config(configs / "pets/lora_nano_vit_pets.py").optim_wrapper.optimizer.lr == 5e-3


def test_names(configs):
    names = {Path(name).name for name in config_names(configs)}
    assert names == {f"{m}_{r}_pets.py" for m in ("lora", "fact_tt") for r in ("vit", "nano_vit")}


def test_several_data_sets_of_one_recipe(configs):
    recipe = (
        RECIPE.format(root=ROOT) + 'data_sets = {n: {"model.head.num_classes": c} for n, c in (("a", 3), ("b", 4))}'
    )
    (configs / "pets/_base_/tiny.py").write_text(recipe)
    names = {Path(name).name for name in config_names(configs)}
    assert {"lora_tiny_a.py", "lora_tiny_b.py"} <= names
    assert "lora_tiny.py" not in names
    assert load_config(configs / "pets/lora_tiny_b.py").model.head.num_classes == 4
    with pytest.raises(UserError, match="does not exist"):
        load_config(configs / "pets/lora_tiny.py")


OVER = """
over = "plain"
without = dict(mona="it is not wanted")
task = "cats"
model = dict(head=dict(num_classes=7))
param_scheduler = [dict(type="ConstantLR")]
"""


def test_a_recipe_over_the_configs_of_another_folder(configs):
    leaf = RECIPE.format(root=ROOT).partition("methods_table")[0] + "optim_wrapper = dict(optimizer=dict(lr=0.25))"
    for name in ("lora", "mona"):
        method = 'model = dict(backbone=dict(type="vpeft.PEFT", of="VisionTransformer", method=dict(type="LoRA")))'
        (configs / "plain").mkdir(exist_ok=True)
        (configs / f"plain/{name}_vit.py").write_text(f"{leaf}\n{method}\n")
    (configs / "cats/_base_").mkdir(parents=True)
    (configs / "cats/_base_/vit.py").write_text(OVER)
    assert [Path(name).name for name in config_names(configs / "cats")] == ["lora_vit.py"]
    below, cfg = load_config(configs / "plain/lora_vit.py"), load_config(configs / "cats/lora_vit.py")
    assert (cfg.task, cfg.model.head.num_classes) == ("cats", 7)
    assert cfg.param_scheduler == [{"type": "ConstantLR"}]
    assert cfg.optim_wrapper == below.optim_wrapper
    assert cfg.model.backbone == below.model.backbone
    assert not {"over", "without"} & set(cfg.keys())
    with pytest.raises(UserError, match="'plain' has no method 'lorra': did you mean 'lora'"):
        load_config(configs / "cats/lorra_vit.py")
    with pytest.raises(UserError, match="mona is not for this recipe: it is not wanted"):
        load_config(configs / "cats/mona_vit.py")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pets/lorra_vit_pets.py", "did you mean 'lora'"),
        ("pets/mona_vit_pets.py", "not for this recipe: it has no map here"),
        ("pets/lora_vit_cats.py", "does not exist"),
    ],
)
def test_wrong_names_help(configs, name, message, monkeypatch):
    with pytest.raises(UserError, match=message):
        load_config(configs / name)


def test_an_unknown_table_names_the_nearest(configs):
    recipe = configs / "pets/_base_/vit_pets.py"
    recipe.write_text(recipe.read_text().replace('"small"', '"smal"'))
    with pytest.raises(UserError, match="did you mean 'small'"):
        load_config(configs / "pets/lora_vit_pets.py")


def test_config_tool_writes_a_config_that_stands_alone(configs, tmp_path):
    out = tmp_path / "mine.py"
    shown = tool("config.py", str(configs / "pets/lora_vit_pets.py"), "--out", str(out))
    assert shown.returncode == 0, shown.stderr
    counted = tool("params.py", str(out), "--json")
    assert counted.returncode == 0, counted.stderr
    report = json.loads(counted.stdout)
    assert report["trainable_without_head"] == 6 * 4 * 64 * 2


def test_what_is_no_config_is_named(tmp_path):
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(UserError, match=r"config .*folder\.py is a folder"):
        load_config(tmp_path / "folder.py")
    with pytest.raises(UserError, match=r"config .*aaa\.py cannot be opened \(File name too long\)"):
        load_config(tmp_path / f"{'a' * 300}.py")
    (tmp_path / "latin.py").write_bytes(b"model = 1\nname = '\xe4'\n")
    with pytest.raises(UserError, match=r"config .*latin\.py:2: byte 0xe4 is not UTF-8"):
        load_config(tmp_path / "latin.py")


def test_recipes_that_need_other_packages_are_in_nobodys_way(configs):
    """Those of a folder are looked through for every config of it; what one of them imports may be missing."""
    pets = configs / "pets"
    text = RECIPE.format(root=ROOT) + 'custom_imports = dict(imports=["not_there"])\n'
    (pets / "_base_/swin_pets.py").write_text(text)
    assert load_config(pets / "lora_vit_pets.py").model.backbone.method.rank == 2
    assert str(pets / "lora_swin_pets.py") in config_names(configs)
    with pytest.raises(UserError, match=r"recipe .*swin_pets\.py cannot be read: .*not_there"):
        load_config(pets / "lora_swin_pets.py")


@pytest.mark.parametrize("name", ["detection/vit_split_dinov2-b_coco", "segmentation/vit_split_dinov2-b-map_ade20k"])
def test_vit_split_on_dinov2(name):
    """Three blocks with LayerScale and the convolutions; what reads its one map takes the backbone's width."""
    with meta_build():
        backbone = build_model(load_config(ROOT / f"configs/{name}.py")).backbone
    width = 768
    blocks = 3 * (12 * width**2 + 13 * width + 2 * width)
    deformable = 9 * width**2 + 18 * (9 * width + 1)
    fused = (4 + 2) * width**2 + 2 * width + 2 * deformable
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == blocks + fused
    assert backbone.out_channels == [width]


def test_vit_adapter_on_dinov2_and_dinov3():
    """One map where the recipe reads one, four where it reads four, whose widths the heads are held against."""
    with meta_build():
        one = build_model(load_config(ROOT / "configs/detection/vit_adapter_dinov2-b_coco.py")).backbone
        model = build_model(load_config(ROOT / "configs/segmentation/vit_adapter_dinov3-b-pyramid_ade20k.py"))
        four = model.backbone(torch.zeros(1, 3, 64, 96))
        inputs = model.decode_head.in_channels
    counts = [sum(p.numel() for p in b.parameters() if p.requires_grad) for b in (one, model.backbone)]
    given = 64 * 768 + 768 + 4 * 768**2 + 768 + 3 * 2 * 768  # the map of stride 4, Up, and three more batch norms
    assert counts == [13_680_608 - given, 13_680_608]
    assert [tuple(x.shape[1:]) for x in four] == [(768, 16, 24), (768, 8, 12), (768, 4, 6), (768, 2, 3)]
    assert inputs == [768] * 4
