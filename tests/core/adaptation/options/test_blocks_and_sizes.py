"""``blocks=`` and sizes by stage or block: which blocks, which sizes, and what refuses them."""

import pytest
import torch
from support.hosts import again, inputs, loss, perturb, tokens, trained

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.options.blocks import chosen_blocks
from vpeft.core.contract.build import build_method

VIT, SWIN = "timm.VisionTransformer", "timm.SwinTransformer"  # 3 blocks of 64; stages of 2 blocks of 64 and of 128


def attached(host, *methods):
    model = again(host, torch.float64)
    vpeft.attach(model, list(methods))
    return model, get_adaptation(model)


def places(adaptation, method="lora"):
    """Indices of the blocks that hold modules of a method."""
    return [b.index for b in adaptation.host.blocks if method in b.module._modules.get("peft", {})]


@pytest.mark.parametrize(
    ("given", "indices"),
    [
        (1, [3]),
        ("last 3", [1, 2, 3]),
        ("last3", [1, 2, 3]),
        ("first 2", [0, 1]),
        ("stage1", [2, 3]),
        ("block2", [2]),
        ((0, -1), [0, 3]),
        (("block0", "stage1"), [0, 2, 3]),
        ((2, 2, -2), [2]),
        (4, [0, 1, 2, 3]),
    ],
)
def test_how_blocks_are_named(given, indices):
    _, adaptation = attached(SWIN, {"type": "LoRA", "blocks": given})
    assert places(adaptation) == indices
    assert [b.index for b in chosen_blocks(given, adaptation.host, "LoRA")] == indices
    # q and v of a block: two pairs of (8, C) and (C, 8).
    assert adaptation.count() == sum(2 * 2 * 8 * adaptation.host.blocks[i].dim for i in indices)


@pytest.mark.parametrize("given", [0, 5, -1, "last 5", "last", "stage2", "block4", "norm", (), (4,), (-5,), ("x", 0)])
def test_blocks_that_are_not_there(given):
    with pytest.raises(
        vpeft.UserError, match=r"^LoRA: blocks=.* must name blocks of timm.SwinTransformer: a number up"
    ):
        attached(SWIN, {"type": "LoRA", "blocks": given})
    for junk in (1.5, True, {"stage1": 1}, ((0,),), 20_000):
        with pytest.raises(vpeft.UserError, match=r"^LoRA: blocks="):
            build_method({"type": "LoRA", "blocks": junk})


def test_a_host_without_blocks_has_none():
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
    for cfg in ({"blocks": 1}, {"rank": {"stage0": 2}}):
        with pytest.raises(vpeft.UserError, match=r"^LoRA: .* host has (no blocks|neither)"):
            vpeft.attach(network, {"type": "LoRA", **{"rank": 2}, **cfg}, sample=torch.zeros(1, 4))


def test_no_gradient_enters_the_blocks_below():
    model, adaptation = attached(VIT, {"type": "SSF", "blocks": 1})
    seen = {}
    for block in adaptation.host.blocks:
        block.module.register_forward_hook(lambda m, a, y, i=block.index: seen.update({i: y.requires_grad}))
    loss(tokens(model, inputs(VIT, 2, torch.float64))).backward()
    assert seen == {0: False, 1: False, 2: True}
    assert all(key.startswith(("blocks.2.", "peft.ssf.norm_0")) for key in trained(model))
    assert any(key.startswith("peft.ssf.norm_0") for key in trained(model))


def test_what_leads_to_a_block_goes_with_it():
    # SSF of the second stage: its two blocks, the patch merging that leads there, the norm that reads its end.
    model, adaptation = attached(SWIN, {"type": "SSF", "blocks": "stage1"})
    outside = {key.split(".")[2] for key in trained(model) if key.startswith("peft.")}
    assert outside == {"downsample1_norm", "norm_0"}
    assert places(adaptation, "ssf") == [2, 3]


def test_shallow_prompts_enter_where_the_blocks_begin():
    model, adaptation = attached(VIT, {"type": "VPTShallow", "prompt_length": 3, "blocks": "last 2"})
    assert adaptation.count() == 3 * 64
    perturb(model)
    blocks, x = adaptation.host.blocks, inputs(VIT, 2, torch.float64)
    kept = {}
    handle = blocks[0].module.register_forward_hook(lambda m, a, y: kept.update(first=y))
    with torch.no_grad():
        out = tokens(model, x)
        prompts = blocks[1].module.peft["vptshallow"]["prompts"].weight.detach().clone()
        handle.remove()
        vpeft.detach(model)
        stream = kept["first"]
        stream = torch.cat((stream[:, :1], prompts.expand(len(stream), -1, -1), stream[:, 1:]), 1)
        for block in blocks[1:]:
            stream = block.module(stream)
        stream = torch.cat((stream[:, :1], stream[:, 4:]), 1)
        torch.testing.assert_close(model.norm(stream), out, rtol=1e-12, atol=1e-12)
    with pytest.raises(vpeft.UserError, match=r"VPTShallow: blocks=\[0, 2\] leaves a gap"):
        attached(VIT, {"type": "VPTShallow", "blocks": [0, 2]})


def test_a_read_out_needs_the_block_that_it_reads():
    model, adaptation = attached(VIT, {"type": "VQT", "prompt_length": 2, "blocks": "last 2"})
    assert adaptation.count() == 2 * 2 * 64
    assert tokens(model, inputs(VIT, 2, torch.float64)).shape[-1] == 64 * (1 + 2 * 2)
    with pytest.raises(
        vpeft.UserError, match=r"^VQT reads at the output norm, which goes with the last block: blocks="
    ):
        attached(VIT, {"type": "VQT", "blocks": [0, 1]})


def test_sizes_by_block_stage_and_for_the_rest(tmp_path):
    cfg = {"type": "LoRA", "rank": {"block3": 6, "stage1": 4, "rest": 2}, "alpha": {"stage0": 8.0}}
    model, adaptation = attached(SWIN, cfg)
    modules = [b.module.peft["lora"]["qkv"] for b in adaptation.host.blocks]
    assert [m.rank for m in modules] == [2, 2, 4, 6]
    assert [m.scale for m in modules] == [4.0, 4.0, 1.0, 1.0]  # alpha / r; what is not stated is the class's None: r
    assert (
        adaptation.count()
        == 4 * (2 * 64 + 2 * 64 + 4 * 128 + 6 * 128)
        == sum(map(torch.numel, trained(model).values()))
    )
    perturb(model)
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    other = vpeft.load_adapter(again(SWIN, torch.float64), tmp_path / "a.safetensors")
    assert get_adaptation(other).methods["lora"].config()["rank"] == {"block3": 6, "stage1": 4, "rest": 2}
    x = inputs(SWIN, 2, torch.float64)
    with torch.no_grad():
        out = tokens(model, x)
        assert torch.equal(tokens(other, x), out)
        vpeft.merge(other)
        torch.testing.assert_close(tokens(other, x), out, rtol=1e-9, atol=1e-9)
    _, plain = attached(SWIN, {"type": "LoRA", "rank": {"block3": 4}})
    assert [b.module.peft["lora"]["qkv"].rank for b in plain.host.blocks] == [8, 8, 8, 4]


def test_sizes_within_chosen_blocks():
    _, adaptation = attached(SWIN, {"type": "AdaptFormer", "bottleneck": {"stage1": 4}, "blocks": "last 3"})
    widths = {b.index: b.module.peft["adaptformer"]["mlp"].down.out_features for b in adaptation.host.blocks[1:]}
    assert widths == {1: 64, 2: 4, 3: 4}
    assert places(adaptation, "adaptformer") == [1, 2, 3]


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (
            {"rank": {"stage2": 4}},
            "LoRA: rank is stated for stage2: timm.SwinTransformer has block0 to block3 and stage0, stage1.",
        ),
        (
            {"rank": {"stage0": 4}, "blocks": "stage1"},
            "LoRA: rank is stated for stage0, where blocks= leaves no block.",
        ),
        ({"rank": {"stage0": 0}}, "LoRA: rank={'stage0': 0}: it must be a whole number from 1 to 65536."),
        ({"rank": {"stage0": [4]}}, "LoRA: rank={'stage0': [4]}: it must be a whole number from 1 to 65536."),
        ({"rank": {"last": 4}}, "LoRA: rank by 'last': name stages and blocks, such as stage2, block11, and rest."),
        ({"rank": {}}, "LoRA: rank by 'an empty dict': name stages and blocks, such as stage2, block11, and rest."),
        (
            {"targets": {"stage0": "q"}},
            "LoRA: targets is no number, and only numbers may differ between stages or blocks.",
        ),
        ({"rank": {"stage0": 65}}, "LoRA: rank=65 must be a whole number from 1 to 64, the narrowest width of "),
    ],
)
def test_sizes_that_are_none(cfg, said):
    with pytest.raises(vpeft.UserError) as refusal:
        attached(SWIN, {"type": "LoRA", **cfg})
    assert str(refusal.value).startswith(said)


def test_a_rank_above_the_widths_of_blocks_that_are_left_out():
    _, adaptation = attached(SWIN, {"type": "LoRA", "rank": 100, "blocks": "stage1"})
    assert adaptation.count() == 2 * 2 * 2 * 100 * 128


def test_several_methods_each_with_its_own(tmp_path):
    first, second = {"type": "LoRA", "blocks": 1}, {"type": "AdaptFormer", "blocks": [0], "bottleneck": 4}
    model, adaptation = attached(VIT, first, second)
    assert (places(adaptation), places(adaptation, "adaptformer")) == ([2], [0])
    assert adaptation.count() == 2 * 2 * 8 * 64 + 4 * (2 * 64 + 1) + 64
    perturb(model)
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    other = vpeft.load_adapter(again(VIT, torch.float64), tmp_path / "a.safetensors")
    x = inputs(VIT, 2, torch.float64)
    with torch.no_grad():
        assert torch.equal(tokens(other, x), tokens(model, x))
    # Another choice is another adapter.
    vpeft.attach(apart := again(VIT, torch.float64), [{**first, "blocks": 2}, second])
    with pytest.raises(vpeft.UserError, match="was trained with"):
        vpeft.load_adapter(apart, tmp_path / "a.safetensors")


def test_named_adapters_in_other_blocks():
    model, x = again(VIT, torch.float64), inputs(VIT, 3, torch.float64)
    outs = {}
    for name, blocks in (("a", [0]), ("b", "last 2")):
        vpeft.attach(model, {"type": "LoRA", "blocks": blocks, "rank": {"block2": 2, "rest": 4}}, name=name) if (
            blocks != [0]
        ) else vpeft.attach(model, {"type": "LoRA", "blocks": blocks}, name=name)
        perturb(model)
    with torch.no_grad():
        for name in ("a", "b"):
            vpeft.use(model, name)
            outs[name] = tokens(model, x)
        vpeft.use(model, ["a", "b", "a"])
        mixed = tokens(model, x)
    for row, name in enumerate("aba"):
        torch.testing.assert_close(mixed[row], outs[name][row], rtol=1e-12, atol=1e-12)
    vpeft.use(model, "b")
    vpeft.detach(model)
    assert not any("peft" in key for key in model.state_dict())
