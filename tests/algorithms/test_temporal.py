"""Methods that look from frame to frame, on an image ViT that runs the frames of clips."""

import copy

import pytest
import torch
from support.hosts import build, inputs, perturb, tokens
from support.plain_clips import FRAMES, PlainAIM, PlainSTAdapter
from support.plain_vit import MAP, SIZE

import vpeft
from vpeft.algorithms.adapter.temporal.aim import drop_places
from vpeft.algorithms.adapter.temporal.st_adapter import SpaceTimeAdapter
from vpeft.apis.testing.hosts.mmpretrain.vit import mm_vit
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.backbones.find import find_host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.build import build_method
from vpeft.core.models.build import meta_build
from vpeft.core.models.clips import ClipBackbone
from vpeft.extension.attention.record import record_attention
from vpeft.registry import BLOCKS


def clips(count=2, frames=FRAMES, size=SIZE):
    return torch.randn(count, 3, frames, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def image_vit(**options):
    return build("mmpretrain.VisionTransformer", img_size=SIZE, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"where": "mlp", "act": "none"},
        {"where": "both", "act": "gelu", "kernel": (3, 3, 3), "bottleneck": 12},
        {"where": "attn", "act": "none", "kernel": (1, 3, 5)},
    ],
    ids=lambda value: value["where"],
)
def test_st_adapter_is_its_equation(options):
    model = vpeft.attach(ClipBackbone(image_vit()), {"type": "ST-Adapter", **options})
    perturb(model).eval()
    plain = PlainSTAdapter({k.removeprefix("image."): v for k, v in model.state_dict().items()}, hw=MAP, **options)
    expected = plain(clips().transpose(1, 2).flatten(0, 1))
    found = model.frames(clips())[-1].flatten(1)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("options", [{"scale": 0.5, "temporal": 1}, {"scale": 2.0, "temporal": 2, "bottleneck": 7}])
def test_aim_is_its_equation(options):
    model = vpeft.attach(ClipBackbone(image_vit()), {"type": "AIM", "frames": FRAMES, **options})
    perturb(model).eval()
    plain = PlainAIM({k.removeprefix("image."): v for k, v in model.state_dict().items()}, **options)
    expected = plain(clips().transpose(1, 2).flatten(0, 1))
    found = model.frames(clips())[-1].flatten(1)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_aim_adds_its_positions_before_the_norm_ahead_of_the_blocks():
    """As the authors: behind the position table, class token included, before CLIP's first norm."""
    model = vpeft.attach(ClipBackbone(image_vit(pre_norm=True)), {"type": "AIM", "frames": FRAMES})
    seen = []
    model.image.pre_norm.register_forward_hook(lambda norm, args, out: seen.append(args[0]))
    model.eval()(clips())
    table = model.state_dict()["image.peft.aim.time.table"]
    assert table.shape == (FRAMES, 64)
    assert not table.any()
    with torch.no_grad():
        get_adaptation(model).host.backbone.peft["aim"]["time"].table.add_(torch.arange(FRAMES).double()[:, None])
    model(clips())
    moved = (seen[1] - seen[0]).unflatten(0, (-1, FRAMES))
    assert torch.allclose(moved, torch.arange(FRAMES).double()[:, None, None].expand_as(moved))


def test_aim_drops_places_of_the_whole_batch():
    model = vpeft.attach(ClipBackbone(image_vit(drop_path_rate=0.0)), {"type": "AIM", "frames": 3, "drop_path": 0.9})
    block = get_adaptation(model).host.blocks[-1].placed("aim")["joint"]
    perturb(model).train()
    torch.manual_seed(3)
    out = block(torch.randn(6, 13, 64, dtype=torch.float64), get_adaptation(model).host.flow)
    left = out.abs().sum(-1) > 0
    assert torch.equal(left, left[:1].expand_as(left))
    assert 0 < left[0].sum() < 13
    assert torch.equal(drop_places(torch.ones(2, 50, 3), 0.75, True).unique(), torch.tensor([0.0, 4.0]))
    rates = [b.placed("aim")["joint"].drop_path for b in get_adaptation(model).host.blocks]
    assert rates == pytest.approx([0.0, 0.45, 0.9])


def test_a_later_frame_reaches_an_earlier_one_by_these_methods_alone():
    moved = clips()
    moved[:, :, -1] += 1.0
    for method, reached in (("LoRA", False), ("ST-Adapter", True), ({"type": "AIM", "frames": FRAMES}, True)):
        model = perturb(vpeft.attach(ClipBackbone(image_vit()), method)).eval()
        first, again = (model.frames(x)[-1].unflatten(0, (2, FRAMES))[:, 1] for x in (clips(), moved))
        assert torch.equal(first, again) != reached, method


def test_the_map_of_a_clip_is_the_same_from_one_stream_and_from_frames_apart():
    numbers = torch.arange(2.0 * 3 * 4 * 5).view(2, 1, 3, 4, 5)
    whole, folded = Flow(), Flow()
    whole.begin(0)
    whole.enter(0, (3, 4, 5))
    folded.begin(0, 3)
    folded.enter(0, (4, 5))
    for flow, x in ((whole, numbers.view(2, 60, 1)), (folded, numbers.view(6, 20, 1))):
        prefix, clips = flow.split_clips(x)
        assert flow.clip_frames == 3
        assert torch.equal(clips, numbers)
        assert torch.equal(flow.join_clips(prefix, clips), x)


#: Hosts with a block of each kind whose attention knows no places.
ANY = (
    "mmpretrain.VisionTransformer",
    "mmpretrain.DeiT3",
    "mmseg.VisionTransformer",
    "open_clip.VisionTransformer",
    "timm.VisionTransformer",
    "timm.VisionTransformer/norm-behind",
    "torchvision.VisionTransformer",
    "transformers.CLIPVisionTransformer",
    "transformers.CLIPVisionTransformer/blip",
    "transformers.CLIPVisionTransformer/owlvit",
    "transformers.SiglipVisionTransformer",
    "transformers.ViTModel",
    "transformers.Dinov2Model",
    "transformers.VideoMAEModel",
)


def test_every_such_kind_is_gone_through():
    kinds = {block.kind for host in ANY for block in find_host(build(host, torch.float32)).blocks}
    assert {kind for kind in BLOCKS.module_dict.values() if kind.any_tokens} <= kinds


@pytest.mark.parametrize("host", ANY)
def test_attention_that_says_any_tokens_knows_no_places(host):
    """Permuted tokens give permuted outputs, beside a pass of its own, in any number."""
    model = build(host)
    vpeft.attach(model, "Linear")
    tokens(model, inputs(host, dtype=torch.float64))
    read = get_adaptation(model).host
    for block in read.blocks:
        if block.kind.any_tokens:
            x = torch.randn(3, 7, block.dim, dtype=torch.float64)
            order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
            with read.flow.beside():
                out, turned = (block.module.site_attention(block.module.site_norm1(t)) for t in (x, x[:, order]))
            assert out.shape == x.shape
            torch.testing.assert_close(turned, out[:, order], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("host", "method", "words"),
    [
        ("timm.VisionTransformer", "ST-Adapter", "is given images: run it on clips with .*vpeft.ClipBackbone"),
        ("mmpretrain.SwinTransformer", "AIM", "is given images: run it on clips"),
        ("mmaction.VisionTransformer", "AIM", "sees all frames of a clip: ST-Adapter"),
        ("mmaction.UniFormerV2", "AIM", "runs a block's attention over time"),
    ],
)
def test_hosts_without_frames_are_refused(host, method, words):
    with pytest.raises(vpeft.UserError, match=words):
        vpeft.attach(build(host), method)


def test_aim_is_refused_where_attention_knows_places():
    with pytest.raises(vpeft.UserError, match="knows places in space"):
        vpeft.attach(ClipBackbone(build("mmpretrain.SwinTransformer")), "AIM")
    assert vpeft.attach(ClipBackbone(build("mmpretrain.SwinTransformer")), "ST-Adapter")


@pytest.mark.parametrize(("kernel", "where"), [((3, 1), "mlp"), ((3, 2, 1), "mlp"), ((3, 1, 1), "stream")])
def test_wrong_settings_are_refused(kernel, where):
    with pytest.raises(vpeft.UserError, match=r"kernel|where"):
        vpeft.attach(ClipBackbone(image_vit()), {"type": "ST-Adapter", "kernel": kernel, "where": where})


#: ViT-B/16 of CLIP; methods2.md: 592 512 for each module, 295 872 for each adapter of AIM and 7 680 besides.
COUNTS = [
    ({"type": "ST-Adapter"}, 12 * 592_512),
    ({"type": "ST-Adapter", "where": "both"}, 24 * 592_512),
    ({"type": "AIM"}, 36 * 295_872 + 7_680),
    ({"type": "AIM", "temporal": 2}, 48 * 295_872 + 7_680),
]


@pytest.mark.parametrize(("method", "count"), COUNTS, ids=lambda value: str(value))
def test_published_counts(method, count):
    with meta_build():
        model = ClipBackbone("timm/vit_base_patch16_clip_224", weights=False, out="cls")
        (adaptation,) = [vpeft.attach(model, method) and get_adaptation(model)]
    assert build_method(method).count(adaptation.host) == count
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_what_is_read_past_the_last_adapter_gives_it_no_gradient():
    """A class token: the authors' last adapter before the MLP is never trained (the docstring says so)."""
    model = ClipBackbone(mm_vit(img_size=16, out_type="cls_token").double())
    vpeft.attach(model, "ST-Adapter")
    get_adaptation(model).base.start("random")
    perturb(model).train()
    model(clips(size=(16, 16))).sum().backward()
    still = {k for k, p in model.named_parameters() if p.requires_grad and not p.grad.any()}
    assert {key.split(".")[2] for key in still} == {"2"}
    assert len(still) == 6


def test_frames_are_known_in_checkpointing_and_beside_one_another():
    """A block that is run again in backward, and a copy, know the frames of their pass."""
    from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

    model = perturb(vpeft.attach(ClipBackbone(image_vit(drop_path_rate=0.0)), "ST-Adapter")).train()
    other = copy.deepcopy(model)
    turn_on_activation_checkpointing(other, [f"image.layers.{i}" for i in range(3)])
    for one in (model, other):
        one(clips()).square().sum().backward()
        one(clips(frames=2))
    grads = {k: p.grad for k, p in model.named_parameters() if p.requires_grad}
    for key, param in other.named_parameters():
        if param.requires_grad:
            torch.testing.assert_close(param.grad, grads[key], rtol=1e-12, atol=1e-14)


def test_attention_is_recorded_of_whole_clips():
    """The spatial one, frame by frame, and not that over time which AIM runs before it."""
    model = perturb(vpeft.attach(ClipBackbone(image_vit()), {"type": "AIM", "frames": FRAMES})).eval()
    with torch.no_grad(), record_attention(model, [1]) as kept:
        model(clips())
    size = MAP[0] * MAP[1]
    assert kept[1].weights.shape == (2 * FRAMES, 4, 1 + size, 1 + size)
    assert (kept[1].grid, kept[1].images) == ((FRAMES, *MAP), 2)
    weights = kept[1].weights.unflatten(0, (2, FRAMES))
    assert torch.equal(kept[1].of_class_token().flatten(3), weights[:, :, :, 0, 1:].transpose(1, 2) / FRAMES)


@pytest.mark.parametrize("kernel", [(3, 1, 1), (5, 1, 1), (3, 3, 3), (1, 3, 3)])
def test_gradients_of_the_convolution_in_bfloat16(kernel):
    """A kernel of torch's for channels in the last place leaves memory in them that nobody wrote."""
    adapter = perturb(SpaceTimeAdapter(64, 32, kernel, "none").double())
    flow, x = Flow(), torch.randn(2, 2 * 4 * 6, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flow.begin(0)
    flow.enter(0, (2, 4, 6))
    found = {}
    for dtype in (torch.float64, torch.bfloat16):
        rubbish = [torch.full((size,), float("nan")) for size in (64, 256, 1000, 4096, 20_000) for _ in range(12)]
        del rubbish
        own = copy.deepcopy(adapter) if dtype is torch.float64 else copy.deepcopy(adapter).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            out = own(x.to(next(own.parameters()).dtype), flow)
        (out.double() * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
        found[dtype] = own.conv.weight.grad.double()
    error = (found[torch.bfloat16] - found[torch.float64]).norm() / found[torch.float64].norm()
    assert error < 0.03
