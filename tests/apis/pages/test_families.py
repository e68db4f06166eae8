"""Every composed config of detection, segmentation and video, and the pages that show them."""

from pathlib import Path

import pytest

from vpeft.apis.config.load import plain_config
from vpeft.apis.config.recipes import compose, rows_of_table
from vpeft.apis.pages.families import PAGES, family_recipes, with_matrix
from vpeft.core.adaptation.attach import attach
from vpeft.core.adaptation.report import parameter_report
from vpeft.core.contract.build import build_methods
from vpeft.core.models.build import build_model, meta_build
from vpeft.errors import UserError

ROOT = Path(__file__).parents[3]
RECIPES = [
    pytest.param(ROOT / "configs" / name, recipe, id=name)
    for family in PAGES
    for name, recipe in family_recipes(family, ROOT / "configs").items()
]


def test_the_published_set_ups_are_there():
    names = {param.id for param in RECIPES}
    assert {"detection/swin-b_coco", "detection/swin-l_voc", "segmentation/swin-l_ade20k"} <= names
    assert {f"video/{m}_{d}" for m in ("vit-b", "swin-b") for d in ("ssv2", "hmdb51", "ucf101", "k400")} <= names


@pytest.mark.parametrize(("path", "recipe"), RECIPES)
def test_every_config_of_a_recipe_builds(path, recipe):
    """The recipe's whole model on the meta device, and the config of each method of its table."""
    plain = recipe.load()
    methods, options = rows_of_table(plain, recipe.folder)
    settings = plain.to_dict()
    with meta_build():
        model = build_model(plain)
        attach(model.backbone, build_methods("Linear"))
    assert parameter_report(model).head > 0
    built = 0
    for name in methods:
        config = path.with_name(f"{name}_{path.name}.py")
        if name in plain.get("without", {}):
            with pytest.raises(UserError, match="not for this recipe"):
                compose(config)
            continue
        cfg = compose(config)
        if cfg.model.backbone.method != methods[name]:  # else the page's test attaches it
            assert name in options
            with meta_build():
                own = build_model(plain)
                (adaptation,) = attach(own.backbone, build_methods(cfg.model.backbone.method))
            (method,) = adaptation.on_host.values()
            assert parameter_report(own).trainable_without_head == method.count()
        rest = plain_config(cfg).to_dict()
        assert rest["model"] == settings["model"]
        assert rest["train_dataloader"] == settings["train_dataloader"]
        assert name in options or rest["optim_wrapper"] == settings["optim_wrapper"]
        built += 1
    assert built == len(methods) - len(plain.get("without", {}))


@pytest.mark.slow
@pytest.mark.parametrize("family", PAGES)
def test_the_pages_are_up_to_date(family, monkeypatch):
    """Every method is attached to every recipe's backbone for it; what is trained there is what its formula counts."""
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / f"{family}.md").read_text()
    attached = []

    def attach_and_count(backbone, methods):
        (adaptation,) = attach(backbone, methods)
        (method,) = adaptation.on_host.values()
        assert parameter_report(backbone).trainable_without_head == method.count()
        attached.append(method)
        return [adaptation]

    monkeypatch.setattr("vpeft.apis.pages.families.attach", attach_and_count)
    assert with_matrix(page, family) == page, "run tools/methods_page.py"
    assert len(attached) > 50
