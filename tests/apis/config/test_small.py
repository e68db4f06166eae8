"""The recipe of real images on DINOv2 ViT-S/14: every method, with the sizes of the VTAB-1k convention."""

from pathlib import Path

import pytest
import torch

from vpeft.apis.config.listing import config_names
from vpeft.apis.config.load import build_model, load_config
from vpeft.apis.rates.evidence import EVIDENCE, RATE, searched_options
from vpeft.core.models.build import meta_build
from vpeft.errors import UserError

ROOT = Path(__file__).parents[3]
SMALL = ROOT / "configs/small"
END = "_dinov2_small.py"
METHODS = [Path(name).name.removesuffix(END) for name in config_names(SMALL) if name.endswith(END)]
#: Their pictures are of another size.
PICTURES = ("vp", "evp", "ilm_vp")


def test_every_method_of_vtab_is_there():
    vtab = {file.name.removesuffix("_vit.py") for file in (ROOT / "configs/vtab").glob("*_vit.py")}
    assert set(METHODS) == {name for name in vtab if not name.endswith("_supernet")}


@pytest.mark.parametrize("name", METHODS)
def test_sizes_are_those_of_vtab(name):
    small = load_config(SMALL / f"{name}_dinov2_small.py", "real_depth")
    vtab = load_config(ROOT / f"configs/vtab/{name}_vit.py")
    wanted = vtab.model.backbone.method.to_dict()
    if name in PICTURES:
        wanted |= {"pad": 4, "image_size": [56, 56]}
    assert small.model.backbone.method.to_dict() == wanted
    for field in ("weight_decay", "type"):
        assert small.optim_wrapper.optimizer[field] == vtab.optim_wrapper.optimizer[field], field
    searched = searched_options(SMALL / EVIDENCE, name, "dinov2_small", ["real_photos", "real_turns"])
    assert small.optim_wrapper.optimizer.lr == searched.get(RATE, vtab.optim_wrapper.optimizer.lr)
    assert small.train_dataloader.batch_size == 32  # the same for all, half of the convention's
    assert (small.suite, small.model.head.num_classes, small.image_size) == ("real", 4, 56)
    assert small.model.backbone.init_cfg.checkpoint == "vpeft://dinov2_small"


@pytest.mark.parametrize(
    ("name", "rate"),
    [("full", 2.15e-5), ("lora", 1e-3), ("adaptformer", 1e-2), ("vptdeep", 4.64e-3), ("linear", 3.16e-3)],
)
def test_rates_that_a_search_found(name, rate):
    assert load_config(SMALL / f"{name}_dinov2_small.py", "real_fashion").optim_wrapper.optimizer.lr == rate


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("linear", 0),
        ("bitfit", 12 * 11 * 384 + 2 * 384),
        ("lora", 12 * 2 * 2 * 8 * 384),
        ("full", 12 * (12 * 384**2 + 15 * 384) + (588 + 1 + 1 + 17 + 2) * 384),
        ("vqt", 12 * 10 * 384),
        ("vit_split", None),
        ("hst", None),
    ],
)
def test_it_is_built_and_its_head_fits(name, count):
    with meta_build():
        model = build_model(load_config(SMALL / f"{name}_dinov2_small.py", "real_fashion"))
        out = model(torch.zeros(2, 3, 56, 56, device="meta"), mode="tensor")
    trained = sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)
    assert count in (None, trained)
    assert model.head(model.extract_feat(torch.zeros(2, 3, 56, 56, device="meta"))).shape == (2, 10)
    assert out is not None


@pytest.mark.parametrize(
    ("recipe", "shapes", "head"),
    [
        ("maps", [(384, 16)], 384 * 7 + 7),
        ("pyramid_maps", [(64, 64), (64, 32), (64, 16), (64, 8)], 4 * 64 * 7 + 7),
        ("boxes", [(64, 32), (64, 16), (64, 8)], None),
    ],
)
def test_dense_recipes(recipe, shapes, head):
    with meta_build():
        model = build_model(load_config(SMALL / f"lora_dinov2_small_{recipe}.py"))
        maps = model.extract_feat(torch.zeros(2, 3, 224, 224, device="meta"))
    assert [tuple(one.shape) for one in maps] == [(2, width, side, side) for width, side in shapes]
    assert sum(p.numel() for p in model.backbone.parameters() if p.requires_grad) == 12 * 2 * 2 * 8 * 384
    if head is not None:
        assert sum(p.numel() for p in model.decode_head.parameters()) == head
    with pytest.raises(UserError, match="its picture is of 56 pixels"):
        load_config(SMALL / f"vp_dinov2_small_{recipe}.py")


@pytest.mark.parametrize("host", ["dinov2_small", "dinov2_small_boxes", "dinov2_small_maps"])
def test_all_methods_have_the_same_batch(host):
    sizes = {
        name: load_config(SMALL / f"{name}_{host}.py").train_dataloader.batch_size
        for name in ("arc", "dtl", "lora", "rlrr")
    }
    assert len(set(sizes.values())) == 1, sizes
