"""timm's MaxxVit, DaVit and Levit: heads that keep their rows together, grids, channels, and what they refuse."""

import copy

import pytest
import torch
from support.hosts import build, inputs, perturb, tokens

import vpeft
from vpeft.apis.testing.hosts.timm.stages.maxxvit import COAT
from vpeft.core.backbones.find import find_host
from vpeft.extension.attention.record import record_attention


@pytest.mark.parametrize(
    ("host", "name", "widths"),
    [
        ("timm.MaxxVit", "stages.1.blocks.0.attn_grid.attn.qkv", (2, 32, 32, 32)),
        ("timm.MaxxVit/coatnet", "stages.2.blocks.1.attn.qkv", (4, 32, 32, 32)),
        ("timm.Levit", "stages.1.blocks.0.attn.qkv.linear", (3, 16, 16, 32)),
    ],
)
def test_merging_keys_changes_the_keys_of_every_head(host, name, widths):
    """Of a linear whose rows are queries, keys and values head by head."""
    plain = build(host)
    model = perturb(vpeft.attach(copy.deepcopy(plain), {"type": "LoRA", "targets": ("k",)}))
    vpeft.merge(model)
    heads, *parts = widths
    change = (model.get_parameter(f"{name}.weight") - plain.get_parameter(f"{name}.weight")).flatten(1).abs().sum(1)
    q, k, v = change.unflatten(0, (heads, -1)).split(parts, dim=1)
    assert not q.any()
    assert not v.any()
    assert k.all()


@pytest.mark.parametrize(("block", "step"), [(0, 1), (1, 2)])
def test_a_grid_takes_tokens_at_a_stride_over_the_whole_map(block, step):
    model = build("timm.MaxxVit")
    with record_attention(model) as found:
        tokens(model, inputs("timm.MaxxVit", dtype=torch.float64))
    attention = found[block]
    assert attention.places[0].tolist() == [8 * step * row + step * column for row in range(4) for column in range(4)]
    torch.testing.assert_close(attention.weights.sum(-1), torch.ones_like(attention.weights[..., 0]))
    assert attention.received().mean().item() == pytest.approx(1.0)


def test_attention_among_channels_has_no_map():
    model, images = build("timm.DaVit"), inputs("timm.DaVit", dtype=torch.float64)
    with record_attention(model, [0, 2]) as found:
        tokens(model, images)
    assert [found[index].weights.shape[-1] for index in (0, 2)] == [16, 16]
    with record_attention(model), pytest.raises(vpeft.UserError, match=r"block 1 attends .* among channels"):
        tokens(model, images)


@pytest.mark.parametrize(
    ("host", "shape", "words"),
    [
        ("timm.MaxxVit", (3, 96, 64), "map of 12x8 is not cut into parts of 4x4|map of 6x4 is not cut"),
        ("timm.MaxxVit/coatnet", (3, 128, 128), "relative positions for a map of 4x4, and gets 8x8"),
        ("timm.Levit", (3, 64, 64), "built for maps of 4x4"),
        ("timm.Levit/convolutions", (3, 64, 64), "built for maps of 4x4"),
    ],
)
def test_a_map_of_another_size_is_refused(host, shape, words):
    model = vpeft.attach(build(host), "LoRA")
    with pytest.raises(vpeft.UserError, match=words):
        tokens(model, inputs(host, shape=shape, dtype=torch.float64))


def test_what_is_not_restated_is_refused():
    same_width = {**COAT, "embed_dim": (64, 64, 64)}
    with pytest.raises(vpeft.UserError, match=r"stages\.2\.blocks\.0: a block that pools its map and is as wide"):
        vpeft.attach(build("timm.MaxxVit", **same_width), "LoRA")
    with pytest.raises(vpeft.UserError, match="none of the blocks of this MaxxVit has attention"):
        vpeft.attach(build("timm.MaxxVit", block_type=("C", "C", "C")), "LoRA")
    with pytest.raises(vpeft.UserError, match=r"keys as wide as values; in block 0 of timm.Levit"):
        vpeft.attach(build("timm.Levit"), "PrefixTuning")


def test_prompts_travel_where_no_convolution_stands_between():
    for host, carries in [("timm.MaxxVit", False), ("timm.MaxxVit/coatnet", True), ("timm.Levit", True)]:
        assert find_host(build(host)).carries_tokens == carries


def test_keys_of_length_one_are_not_scaled():
    """XCiT norms every channel of queries and keys: (IA)3 would train numbers that change nothing."""
    with pytest.raises(vpeft.UserError, match=r"attention of timm\.Xcit brings each channel of them to length one"):
        vpeft.attach(build("timm.Xcit"), "IA3")
    vpeft.attach(build("timm.DaVit"), "IA3")  # whose keys keep theirs
