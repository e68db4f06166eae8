"""Recorded attention is the softmax of the host's own scores, put where its tokens lie; unrecorded it costs nothing."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from support.hosts import TINY, build, inputs, perturb, tokens
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import vpeft
from vpeft.core.backbones.block_forward import QKV, SiteAttention
from vpeft.extension.attention.record import Attention, record_attention, rollout, rollout_map

METHODS = {
    "untouched": None,
    "Prefix": {"type": "PrefixTuning", "prefix_length": 3},
    "VPT-Deep": {"type": "VPTDeep", "prompt_length": 2},
    "LoRA": {"type": "LoRA", "rank": 2},
}
#: Keys are of a reduced map, queries are pooled, or attention is among channels.
REDUCED = ("mmseg.MixVisionTransformer", "timm.PyramidVisionTransformerV2", "transformers.SegformerModel")
REDUCED += ("transformers.PvtV2Model", "timm.HieraDet", "transformers.Sam2HieraDetModel")
REDUCED += ("timm.Hiera", "transformers.HieraModel")
REDUCED += ("timm.Xcit", "mmdet.PyramidVisionTransformer", "mmdet.PyramidVisionTransformer/v2")
REDUCED += ("mmaction.MViT", "mmpretrain.MViT")
REDUCED += ("timm.MultiScaleVit", "timm.Levit", "timm.Levit/convolutions", "timm.DaVit")
#: What the softmax gives is mixed among the heads before it weighs values, or heads stand inside the channels.
MIXED = ("timm.Cait", "timm.Nest", "timm.VisionTransformer/parallel-differential")
#: All blocks of theirs mix tokens without queries and keys, or some do.
WITHOUT = ("timm.FocalNet", "timm.VOLO", "timm.MaxxVit/parallel")
WHOLE = [host for host in TINY if host not in REDUCED + MIXED + WITHOUT and "Conv" not in host]
#: Their scores are scaled products, in windows with a table of relative positions: re-stated here score by score.
NAIVE = ["mmpretrain.VisionTransformer", "timm.VisionTransformer", "mmseg.VisionTransformer"]
NAIVE += ["mmaction.VisionTransformer", "mmaction.SwinTransformer3D", "mmaction.TimeSformer", "mmaction.UniFormerV2"]
NAIVE += [f"{library}.SwinTransformer" for library in ("mmpretrain", "timm", "mmdet", "mmseg")]
CASES = [(host, variant) for host in NAIVE for variant in ("plain", "padded") if variant in TINY[host].variants]


def made(host, variant="plain", method=None, scale=0.5):
    options, shape = TINY[host].variants[variant]
    model = build(host, **options)
    if method:
        perturb(vpeft.attach(model, method), scale)
    model.eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True
    return model, inputs(host, dtype=torch.float64, shape=shape)


@pytest.fixture
def seen(monkeypatch):
    """What every block's attention is computed from, kept beside the recorder."""
    kept = {}
    plain = SiteAttention.site_core

    def site_core(self, *args):
        kept[self.peft_index] = (plain(self, *args), self, self.peft_flow.grid)
        return kept[self.peft_index][0]

    monkeypatch.setattr(SiteAttention, "site_core", site_core)
    return kept


def window_of(block, grid):
    """Window and shift of a block, the map's extents after padding, and whether it rolls before it pads."""
    if hasattr(block, "site_window_size"):
        window, shift = block.site_window_size(grid)
        rolls_first = False
    else:
        window, shift, rolls_first = block.window_size, block.shift_size, True
    return window, shift, [math.ceil(g / w) * w for g, w in zip(grid, window, strict=True)], rolls_first


def layout(block, grid):
    """By rule, token by token: ``[window][slot] -> (place on the map or -1, region)``, row after row."""
    window, shift, padded, rolls_first = window_of(block, grid)
    counts = [p // w for p, w in zip(padded, window, strict=True)]
    found = []
    for corner in itertools.product(*map(range, counts)):
        slots = []
        for inner in itertools.product(*map(range, window)):
            at = [c * w + i for c, w, i in zip(corner, window, inner, strict=True)]
            region = [
                0 if s == 0 or a < p - w else 1 if a < p - s else 2
                for a, p, w, s in zip(at, padded, window, shift, strict=True)
            ]
            if rolls_first:
                inside = all(a < g for a, g in zip(at, grid, strict=True))
                from_ = [(a + s) % g for a, s, g in zip(at, shift, grid, strict=True)]
            else:
                from_ = [(a + s) % p for a, s, p in zip(at, shift, padded, strict=True)]
                inside = all(f < g for f, g in zip(from_, grid, strict=True))
            place = 0
            for f, g in zip(from_, grid, strict=True):
                place = place * g + f
            slots.append((place if inside else -1, region))
        found.append(slots)
    return found


def naive(qkv, block, grid):
    """Softmax from queries and keys, score by score."""
    q, k = qkv.q, qkv.k
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
    if block.site_places() is None or block.frames_last:
        return scores.softmax(-1)
    window, shift, _, _ = window_of(block, grid)
    area = math.prod(window)
    table = (block.site_msa if hasattr(block, "site_msa") else block.attn).relative_position_bias_table
    cells = list(itertools.product(*map(range, window)))
    steps = [2 * w - 1 for w in window]
    first_q, first_k = q.shape[2] - area, k.shape[2] - area
    places = layout(block, grid)
    for i, j in itertools.product(range(area), range(area)):
        row = 0
        for a, b, w, step in zip(cells[i], cells[j], window, steps, strict=True):
            row = row * step + (a - b + w - 1)
        scores[:, :, first_q + i, first_k + j] += table[row]
        if any(shift):
            for number, slots in enumerate(places):
                if slots[i][1] != slots[j][1]:
                    scores[number :: len(places), :, first_q + i, first_k + j] -= 100.0
    return scores.softmax(-1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("host", "variant"), CASES)
def test_maps_are_the_naive_softmax(host, variant, method, seen):
    model, images = made(host, variant, METHODS[method])
    with torch.no_grad():
        plain = tokens(model, images)
    with torch.no_grad(), record_attention(model) as kept:
        out = tokens(model, images)
        # Recording does not change what the model says; without a graph torch's own attention takes another path.
        kernel = not METHODS[method] or any(isinstance(m, torch.nn.MultiheadAttention) for m in model.modules())
        torch.testing.assert_close(out, plain, atol=1e-12 if kernel else 0, rtol=0)
        assert len(kept) == len(seen) >= 3
        for index, (qkv, block, grid) in seen.items():
            attention = kept[index]
            block.peft_flow.grid = grid
            torch.testing.assert_close(attention.weights, naive(qkv, block, grid), atol=1e-6, rtol=0)
            sums = attention.weights.sum(-1)
            torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-6, rtol=0)
            assert attention.grid == tuple(grid)
            assert attention.extra == (3 if method == "Prefix" else 0)
            assert attention.prefix - attention.own == (2 if method == "VPT-Deep" else 0)
            assert sum(attention.shares().values()) == pytest.approx(1)
            assert (attention.shares()["added"] > 0) == (method in ("Prefix", "VPT-Deep"))
    assert not hasattr(model, "peft_adaptation") or method != "untouched"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("host", WHOLE)
def test_weights_are_those_that_the_host_used(host, method, seen, monkeypatch):
    """Weights times values is what the projection behind the attention really reads, fused kernels or not."""
    model, images = made(host, method=METHODS[method] or "Full")
    read = []
    for block in model.peft_adaptation.host.blocks:
        proj = block.sites["proj"].module
        if isinstance(proj, torch.nn.Module):
            proj.register_forward_pre_hook(lambda module, args: read.append(args[0]))
        else:
            run = block.sites["proj"].run
            monkeypatch.setattr(block.sites["proj"], "run", lambda op, y, run=run: read.append(y) or run(op, y))
    with torch.no_grad(), record_attention(model) as kept:
        tokens(model, images)
    for y, index in zip(read, sorted(kept), strict=True):
        made_again = (kept[index].weights @ seen[index][0].v).transpose(1, 2).flatten(2)
        y = y if y.dim() == 3 else y.flatten(2).transpose(1, 2)  # a projection that is a 1x1 convolution
        torch.testing.assert_close(made_again, y, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("host", "variant"), [c for c in CASES if "Swin" in c[0]])
def test_windows_lie_where_they_belong(host, variant):
    """A mark on one token changes the attention of the tokens of its window, and of no other."""
    model, images = made(host, variant, "Full", scale=0.05)  # scores that differ by less than the mask's 100
    grids = {}
    hooks = [
        b.module.register_forward_hook(lambda m, a, o, i=b.index: grids.update({i: m.peft_flow.grid}))
        for b in model.peft_adaptation.host.blocks
    ]
    tokens(model, images)
    for hook in hooks:
        hook.remove()
    shifted = 0
    for block in model.peft_adaptation.host.blocks[:2]:
        grid = grids[block.index]
        slots = layout(block.module, grid)
        stream = torch.randn(1, math.prod(grid), block.dim, dtype=torch.float64)
        for mark in (0, math.prod(grid) // 2, math.prod(grid) - 1):
            found = []
            for x in (stream, stream.index_fill(1, torch.tensor(mark), 5.0)):
                with torch.no_grad(), record_attention(model, [block.index]) as kept:
                    block.module.site_forward(x, grid)
                found.append(kept[block.index].among_tokens())
            changed = {int(i) for i in (found[0] != found[1]).any(-1).any(1)[0].nonzero()}
            window = next(window for window in slots if mark in dict(window))
            assert changed == {place for place, _ in window if place >= 0}
            among = found[0].sum(-1)
            assert (among <= 1 + 1e-9).all()  # padding takes the rest
            received = kept[block.index].received()
            assert received.shape == (1, block.heads, *grid)
            torch.testing.assert_close(received.sum(), found[1].sum())
        # Tokens that only a shift has brought together see nothing of one another.
        for (one, region), (two, other) in itertools.chain(*(itertools.permutations(window, 2) for window in slots)):
            if region != other and min(one, two) >= 0:
                shifted += 1
                assert found[0][0, :, one, two].max() < 1e-12
    assert shifted or variant != "plain"


def test_maps_of_the_class_token_and_of_one_token():
    model, images = made("mmpretrain.VisionTransformer", method=METHODS["VPT-Deep"])
    with torch.no_grad(), record_attention(model, [-1]) as kept:
        tokens(model, images)
    assert list(kept) == [2]
    attention = kept[2]
    assert attention.of_class_token().shape == (2, 4, 4, 4)
    assert torch.equal(attention.of_class_token()[1, 2, 3, 1], attention.weights[1, 2, 0, 3 + 13])
    assert torch.equal(attention.of_token((1, 2))[0, 1, 3, 0], attention.weights[0, 1, 3 + 6, 3 + 12])
    with pytest.raises(vpeft.UserError, match=r"no token at \(4, 0\): the map of block 2 is \(4, 4\)"):
        attention.of_token((4, 0))


def test_clips_have_maps_of_frames():
    model, clips = made("mmaction.VisionTransformer")
    with torch.no_grad(), record_attention(model) as kept:
        tokens(model, clips)
    assert kept[2].received().shape == (2, 4, 2, 2, 2)
    assert rollout_map(kept).shape == (2, 2, 2, 2)
    model, clips = made("mmaction.SwinTransformer3D")
    with torch.no_grad(), record_attention(model, [0]) as kept:
        tokens(model, clips)
    assert kept[0].received().shape == (2, 2, 3, 4, 4)


def hand(index, rows, extra=0):
    return Attention(index, torch.tensor([[rows]], dtype=torch.float64), (1, 2), own=1, prefix=1)


def test_rollout_by_hand():
    first = hand(0, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    second = hand(1, [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    third = hand(2, [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    # (A + I) / 2 of the first is I, of the second [[.75 .25 0] [0 .75 .25] [.5 0 .5]], of the third
    # [[.5 0 .5] [0 1 0] [0 0 1]]; the class token's row of their product is .5 (.75 .25 0) + .5 (.5 0 .5).
    product = rollout({0: first, 1: second, 2: third})
    assert product[0].tolist() == [[0.625, 0.125, 0.25], [0.0, 0.75, 0.25], [0.5, 0.0, 0.5]]
    assert rollout_map({0: first, 1: second, 2: third}).tolist() == [[[0.125, 0.25]]]


def test_rollout_leaves_prefixes_out():
    # One prefix before the class token takes half of the class token's attention.
    rows = [[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    attention = hand(0, rows)
    assert attention.extra == 1
    assert rollout({0: attention})[0].tolist() == [[0.75, 0.25, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert attention.shares() == {"map": 0.25, "own": 0.25, "added": 0.5}
    assert attention.of_class_token()[0, 0].tolist() == [[0.25, 0.0]]


def test_what_a_token_gives_and_receives_by_hand():
    # Keys: a prefix, the class token, two tokens of the map; queries: the class token and the two.
    attention = hand(0, [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.7, 0.05, 0.15, 0.1]])
    assert attention.among_tokens()[0, 0].tolist() == [[0.2, 0.1], [0.15, 0.1]]
    assert attention.received()[0, 0].tolist() == [[0.35, 0.2]]
    assert attention.of_token((0, 0))[0, 0].tolist() == [[0.2, 0.1]]
    assert attention.of_token((0, 1))[0, 0].tolist() == [[0.15, 0.1]]


class Fused(TorchFunctionMode):
    """Counts calls of the fused attention."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func is F.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operations(model, images):
    """Names of a forward pass's operations, the bytes that it keeps for a backward pass, calls of fused attention."""
    saved = []
    with (
        Fused() as fused,
        Operations() as mode,
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t),
    ):
        tokens(model, images)
    return mode.names, sum(saved), fused.count


@pytest.mark.parametrize("host", WHOLE)
def test_unrecorded_costs_nothing(host, monkeypatch):
    model, images = made(host, method=METHODS["LoRA"])
    with record_attention(model):
        recorded = operations(model, images)
    now = operations(model, images)
    without = lambda self, q, k, v, x, scores=None: self.peft_sites["core"].before(QKV(q, k, v, x))  # noqa: E731
    monkeypatch.setattr(SiteAttention, "site_core", without)
    assert now == operations(model, images)
    assert len(recorded[0]) > len(now[0])
    # Fused kernels run in every block, recorded or not.
    blocks = len(model.peft_adaptation.host.blocks)
    assert recorded[2] == now[2]
    if host in NAIVE or host in FUSED:
        assert now[2] == (blocks if host in FUSED else 0)


FUSED = ("mmpretrain.VisionTransformer", "timm.VisionTransformer", "timm.SwinTransformer")
FUSED += ("open_clip.VisionTransformer", "torchvision.VisionTransformer", "mmaction.UniFormerV2")


@pytest.mark.parametrize("host", REDUCED)
def test_a_reduced_map_is_no_attention_map(host):
    model, images = made(host)
    with (
        pytest.raises(vpeft.UserError, match=r"block \d attends to a reduced map, from pooled queries"),
        record_attention(model),
    ):
        tokens(model, images)


def test_wrong_use_helps():
    model, images = made("mmpretrain.SwinTransformer")
    with (
        pytest.raises(vpeft.UserError, match=r"no block 9: mmpretrain\.SwinTransformer has the blocks 0 to 3"),
        record_attention(model, [9]),
    ):
        pass
    assert not hasattr(model, "peft_adaptation")
    with torch.no_grad(), record_attention(model) as kept:
        tokens(model, images)
    with pytest.raises(vpeft.UserError, match=r"has no class token: look at .*received.*Grad-CAM"):
        kept[0].of_class_token()
    with pytest.raises(vpeft.UserError, match="rollout needs blocks that all attend over the whole map"):
        rollout(kept)
