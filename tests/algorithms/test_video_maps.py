"""Methods that read the map see every frame of a clip as a map of its own."""

import pytest
import torch
from support.hosts import build, inputs, perturb, tokens

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.backbones.sites.flow import Flow
from vpeft.extension.attention.record import record_attention

FRAMES, HEIGHT, WIDTH = 3, 4, 5
VIDEO = ["mmaction.VisionTransformer", "mmaction.SwinTransformer3D"]


def flow_of(*grid):
    flow = Flow()
    flow.begin(0)
    flow.enter(0, grid)
    return flow


def test_split_puts_every_token_on_its_frame():
    flow = flow_of(FRAMES, HEIGHT, WIDTH)
    numbers = torch.arange(2.0 * FRAMES * HEIGHT * WIDTH).view(2, FRAMES, HEIGHT, WIDTH)
    prefix, maps = flow.split(numbers.flatten(1).unsqueeze(-1))
    assert prefix.shape == (2, 0, 1)
    assert torch.equal(maps, numbers.flatten(0, 1).unsqueeze(1))
    assert torch.equal(flow.join(prefix, maps), numbers.flatten(1).unsqueeze(-1))


@pytest.mark.parametrize("host", VIDEO)
@pytest.mark.parametrize(
    ("method", "name"), [("Mona", "attn"), ("Convpass", "attn"), ("Convpass", "mlp")], ids=lambda value: value
)
def test_a_clip_is_its_frames_one_by_one(host, method, name):
    model = vpeft.attach(build(host), method)
    perturb(model)
    model.eval()
    block = get_adaptation(model).host.blocks[0]
    modules = block.placed(get_adaptation(model).methods.copy().popitem()[0])
    (module,) = [module for key, module in modules.items() if name in key]
    x = torch.randn(2, FRAMES, HEIGHT * WIDTH, block.dim, dtype=torch.float64)
    whole = module(x.flatten(1, 2), flow_of(FRAMES, HEIGHT, WIDTH))
    frames = [module(x[:, t], flow_of(HEIGHT, WIDTH)) for t in range(FRAMES)]
    torch.testing.assert_close(whole, torch.cat(frames, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("host", VIDEO)
def test_a_pixel_moves_its_own_frame_alone(host):
    """Through Mona's convolutions, with the blocks' own attention switched off."""
    model = vpeft.attach(build(host), "Mona")
    perturb(model)
    model.eval()
    adaptation = get_adaptation(model)
    (module, *_) = adaptation.host.blocks[0].placed("mona").values()
    flow = flow_of(FRAMES, HEIGHT, WIDTH)
    x = torch.randn(1, FRAMES * HEIGHT * WIDTH, adaptation.host.blocks[0].dim, dtype=torch.float64)
    y = x.clone()
    y[0, HEIGHT * WIDTH + 7] += torch.randn(x.shape[-1], dtype=torch.float64)  # a token of the second frame
    moved = (module(y, flow) - module(x, flow)).abs().sum(-1).view(FRAMES, -1)
    assert moved[1].gt(0).sum() > 1  # neighbours on its map
    assert not moved[[0, 2]].any()


def test_frames_that_stand_together_are_split_alike():
    flow = flow_of(FRAMES, HEIGHT, WIDTH)
    flow.frames_last = True
    numbers = torch.arange(2.0 * FRAMES * HEIGHT * WIDTH).view(2, FRAMES, HEIGHT, WIDTH)
    stream = numbers.flatten(2).transpose(1, 2).flatten(1).unsqueeze(-1)
    prefix, maps = flow.split(stream)
    assert torch.equal(maps, numbers.flatten(0, 1).unsqueeze(1))
    assert torch.equal(flow.join(prefix, maps), stream)


DIVIDED = ["mmaction.TimeSformer", "transformers.TimesformerModel"]


@pytest.mark.parametrize("host", DIVIDED)
def test_attention_in_space_is_of_each_frame(host):
    """Its maps lie frame by frame on the clip's, and the class token's is the mean over the frames."""
    model = build(host)
    with torch.no_grad(), record_attention(model, [0]) as kept:
        recorded = tokens(model, inputs(host, dtype=torch.float64))
    with torch.no_grad():
        torch.testing.assert_close(tokens(model, inputs(host, dtype=torch.float64)), recorded, rtol=1e-12, atol=1e-12)
    weights = kept[0].weights.unflatten(0, (2, FRAMES))  # clips, frames, heads, queries, keys
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    of_class = weights[:, :, :, 0, 1:].transpose(1, 2) / FRAMES
    assert torch.equal(kept[0].of_class_token().flatten(3), of_class)
    received = weights[:, :, :, 1:, 1:].sum(-2).transpose(1, 2)
    torch.testing.assert_close(kept[0].received().flatten(3), received)


@pytest.mark.parametrize("host", DIVIDED)
def test_what_takes_the_clip_for_one_stream_is_refused(host):
    with pytest.raises(vpeft.UserError, match=r"attention of .* is in each frame apart"):
        vpeft.attach(build(host), "E3VA")


def test_clips_of_other_frames_are_refused():
    model = vpeft.attach(build("transformers.TimesformerModel"), "LoRA")
    with pytest.raises(vpeft.UserError, match="2x2x2, is not one of 3 frames"):
        model(torch.randn(1, 2, 3, 16, 16, dtype=torch.float64))
