"""Methods that read the map see every frame of a clip as a map of its own."""

import pytest
import torch
from support.hosts import build, perturb

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.backbones.sites.flow import Flow

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
