"""Models with several backbones: which is adapted is said, and every call serves all that are."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from safetensors.torch import load_file
from support.hosts import build, perturb
from torch import nn

import vpeft
from vpeft.core.adaptation.find import adaptations, backbone_prefix, find_adaptation, get_adaptation
from vpeft.core.adaptation.report import parameter_report, render
from vpeft.core.adaptation.training.parameter_groups import PEFTOptimWrapperConstructor

TIMM = "timm.VisionTransformer"
LORA = {"type": "LoRA", "rank": 4}
BOTH = ["left", "towers.right"]


class Towers(nn.Module):
    """Two backbones of two kinds and a head."""

    def __init__(self):
        super().__init__()
        self.left = build(TIMM, num_classes=0)
        self.towers = nn.ModuleDict({"right": build("timm.SwinTransformer", num_classes=0)})
        self.head = nn.Linear(192, 3, dtype=torch.float64)

    def forward(self, x):
        return self.head(torch.cat([self.left(x), self.towers["right"](x.flip(-1))], 1))


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def said():
    """What is written to the log."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def refused(act, *messages):
    with pytest.raises(vpeft.UserError) as error:
        act()
    for message in messages:
        assert message in str(error.value)


def test_which_backbone_is_asked():
    model = Towers()
    keys, flags = list(model.state_dict()), [p.requires_grad for p in model.parameters()]
    names = "left (timm.models.vision_transformer.VisionTransformer)", "towers.right (timm.models.swin_transformer."
    refused(lambda: vpeft.attach(model, LORA), "contains 2 backbones", *names, "backbone='left'")
    refused(lambda: vpeft.attach(model, LORA, "rigt"), "backbone='rigt' is no backbone", "Known: left, towers.right")
    refused(lambda: vpeft.attach(model, LORA, []), "at least one")
    refused(lambda: vpeft.attach(model, LORA, ["left", "left"]), "each once")
    assert list(model.state_dict()) == keys
    assert [p.requires_grad for p in model.parameters()] == flags


def test_what_trains_around_a_backbone_is_said_largest_first(said):
    model = nn.Module()
    model.encoder = nn.ModuleDict({"image": build("timm.VisionTransformer"), "text": nn.Linear(64, 640)})
    for number in range(5):
        model.add_module(f"neck{number}", nn.Linear(8, 8 + number))
    model.frozen, model.scale = nn.Linear(99, 99).requires_grad_(False), nn.Parameter(torch.zeros(1))
    vpeft.attach(model, LORA)
    (line,) = [line for line in said if "outside the backbone" in line]
    whole = sum(p.numel() for p in model.parameters())
    assert line.startswith(
        f"trainable as before, outside the backbone: encoder.text ({100 * 41600 / whole:.2g} %), neck4 ("
    )
    assert "neck2 (" in line
    assert line.endswith(f" and 3 more of the model's {whole:,} parameters.")
    said.clear()
    vpeft.attach(build("timm.VisionTransformer"), LORA)
    assert not [line for line in said if "outside" in line]


def test_one_is_named_and_what_stays_trainable_is_said_once(said):
    model = vpeft.attach(Towers(), LORA, backbone="left")
    assert list(adaptations(model)) == ["left."]
    assert backbone_prefix(model) == "left."
    size = sum(p.numel() for p in model.towers.parameters())
    assert [line for line in said if "not adapted" in line] == [
        f"not adapted and trainable as before: towers.right ({size:,} parameters). "
        "Freeze it (requires_grad_(False)), or name it too."
    ]
    whole = sum(p.numel() for p in model.parameters())
    assert [line for line in said if "outside the backbone" in line] == [
        f"trainable as before, outside the backbone: head ({100 * 579 / whole:.2g} %) of the model's {whole:,} "
        "parameters."
    ]
    report = parameter_report(model)
    assert report.outside == {"towers": size, "head": 3 * 193}
    assert report.head == size + 3 * 193
    assert f"(towers {size:,}, head 579)" in render(report)
    refused(lambda: vpeft.attach(model, LORA), "adapted already", "backbone='towers.right'")
    refused(lambda: vpeft.attach(model, LORA, "left"), "attached to left already")
    vpeft.attach(model, "SSF", backbone="towers")  # the module that holds it
    assert list(adaptations(model)) == ["left.", "towers.right."]
    refused(lambda: vpeft.attach(model, LORA), "attached to this model already")


def test_a_frozen_backbone_beside_is_not_spoken_of(said):
    model = Towers()
    model.towers.requires_grad_(False)
    vpeft.attach(model, LORA, backbone="left")
    assert not [line for line in said if "not adapted" in line]


def test_every_call_serves_all(images, tmp_path):
    plain = Towers().eval()
    model = vpeft.attach(Towers(), LORA, backbone=BOTH).eval()
    assert not any(
        ".peft." not in n and not n.startswith("head") for n, p in model.named_parameters() if p.requires_grad
    )
    perturb(model)
    plain.head.load_state_dict(model.head.state_dict())
    truth, base = model(images), plain(images)
    with vpeft.disabled(model):
        assert torch.equal(model(images), base)
    assert torch.equal(model(images), truth)

    assert vpeft.merge(model) == []
    other = Towers().eval()
    other.load_state_dict(vpeft.plain_state_dict(model))
    torch.testing.assert_close(other(images), truth, rtol=1e-9, atol=1e-9)
    refused(lambda: vpeft.merge(model), "merged already")
    refused(lambda: vpeft.save_adapter(model, tmp_path / "merged"), "unmerge it before saving")
    assert torch.equal(vpeft.unmerge(model)(images), truth)

    path = vpeft.save_adapter(model, tmp_path / "both")
    assert {key.split(".")[0] for key in load_file(path)} == {"left", "towers", "head"}
    assert torch.equal(vpeft.load_adapter(Towers().eval(), path)(images), truth)
    assert torch.equal(vpeft.load_adapter(vpeft.attach(Towers().eval(), LORA, BOTH), path)(images), truth)

    assert torch.equal(vpeft.detach(model)(images), base)
    assert not adaptations(model)
    refused(lambda: vpeft.detach(model), "no method is attached to this Towers")


def test_each_has_methods_of_its_own(images, tmp_path):
    model = vpeft.attach(vpeft.attach(Towers().eval(), LORA, "left"), "SSF", "towers.right")
    perturb(model)
    report = parameter_report(model)
    assert [method["type"] for method in report.methods] == ["LoRA", "SSF"]
    assert report.host == "left: timm.VisionTransformer, towers.right: timm.SwinTransformer"
    assert {row[0].split(".")[0] for row in report.sites} == {"left", "towers"}
    path = vpeft.save_adapter(model, tmp_path / "two")
    assert torch.equal(vpeft.load_adapter(Towers().eval(), path)(images), model(images))
    swapped = vpeft.attach(vpeft.attach(Towers(), "SSF", "left"), LORA, "towers.right")
    refused(lambda: vpeft.load_adapter(swapped, path), "'type': 'LoRA'", "is attached: detach it first")
    one = vpeft.attach(Towers(), LORA, "left")
    refused(lambda: vpeft.load_adapter(one, path), "is of the backbones left, towers.right; adapted here: left")


def test_a_bare_backbones_adapter_goes_where_it_is_told(images, tmp_path):
    bare = perturb(vpeft.attach(build(TIMM, num_classes=0), LORA))
    path = vpeft.save_adapter(bare, tmp_path / "bare")
    refused(lambda: vpeft.load_adapter(Towers(), path), "contains 2 backbones")
    model = vpeft.load_adapter(Towers().eval(), path, backbone="left")
    assert torch.equal(model.left(images), bare(images))
    refused(lambda: vpeft.load_adapter(Towers(), path, backbone="towers.right"), "belongs to another host")


def test_all_or_none():
    model = Towers()
    keys = list(model.state_dict())
    wide = {"type": "LoRA", "rank": 64}
    model.towers["right"].head = nn.Identity()
    refused(lambda: vpeft.attach(model, [wide, {"type": "VPTDeep", "prompt_length": 0}], BOTH), "prompt_length=0")
    assert list(model.state_dict()) == keys
    assert not adaptations(model)
    vpeft.attach(vpeft.attach(model, LORA, "left"), "PfeifferAdapter", "towers.right")
    refused(lambda: vpeft.merge(model), "cannot be merged into the weights")
    assert not any(one.merged for one in adaptations(model).values())


def test_detaching_takes_all_or_none():
    model = vpeft.attach(Towers(), LORA, BOTH)
    model.towers["right"].norm.requires_grad_(True)
    refused(lambda: vpeft.detach(model), "freed by hand")
    assert list(adaptations(model)) == ["left.", "towers.right."]
    vpeft.detach(model, restore=False)
    assert not adaptations(model)


def test_what_looks_at_one_asks_for_it():
    model = vpeft.attach(Towers(), LORA, BOTH)
    for ask in (find_adaptation, get_adaptation, backbone_prefix):
        refused(
            lambda ask=ask: ask(model), "attached to 2 backbones of this Towers: left, towers.right", "instead of the"
        )
    assert get_adaptation(model.left) is adaptations(model)["left."]


def test_the_optimiser_gets_what_both_train():
    model = vpeft.attach(Towers(), LORA, BOTH)
    build_optimiser = PEFTOptimWrapperConstructor(
        {"optimizer": {"type": "AdamW", "lr": 1e-3}}, {"backbone_lr_mult": 0.1}
    )
    groups = build_optimiser(model).optimizer.param_groups
    sizes = {}
    for group in groups:
        sizes[group["lr"]] = sizes.get(group["lr"], 0) + sum(p.numel() for p in group["params"])
    report = parameter_report(model)
    assert sizes == {1e-4: report.trainable_without_head, 1e-3: report.head}
