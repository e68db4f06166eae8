"""Side-Tuning where a head reads maps: every output has a blend of its own."""

import pytest
import torch
import torch.nn.functional as F
from support.hosts import again, inputs, perturb
from support.plain_side import side_map

import vpeft

METHOD = {"type": "SideTuning", "width": 6}


def test_every_map_is_blended_with_the_side_map():
    host = "mmseg.SwinTransformer"
    plain, model = again(host), again(host)
    perturb(vpeft.attach(model, METHOD))
    x = inputs(host, 2, torch.float64)
    for one in (plain, model):
        one.eval()
    state, outputs, bases = model.state_dict(), model(x), plain(x)
    assert len(outputs) == len(bases) == 2
    side = side_map(state, "peft.sidetuning.network", x)
    for i, (base, out) in enumerate(zip(bases, outputs, strict=True)):
        alpha = torch.sigmoid(state[f"peft.sidetuning.norm_{i}.alpha"])
        own = F.interpolate(side, base.shape[2:], mode="bilinear")
        own = torch.einsum("oc,bchw->bohw", state[f"peft.sidetuning.norm_{i}.project.weight"], own)
        torch.testing.assert_close(out, alpha * base + (1 - alpha) * own, rtol=1e-10, atol=1e-10)


def test_maps_of_a_clip_are_blended_frame_by_frame():
    """S sees every frame of the clip; its maps are resized in time too, and laid out as the tokens are."""
    host = "mmaction.VisionTransformer/maps"
    plain, model = again(host), again(host)
    perturb(vpeft.attach(model, METHOD))
    x = inputs(host, 2, torch.float64)
    state = model.state_dict()
    base, out = plain.eval()(x), model.eval()(x)
    frames = [side_map(state, "peft.sidetuning.network", x[:, :, frame]) for frame in range(x.shape[2])]
    own = F.interpolate(torch.stack(frames, 2), base.shape[2:], mode="trilinear")
    own = torch.einsum("oc,bcthw->bothw", state["peft.sidetuning.norm_0.project.weight"], own)
    alpha = torch.sigmoid(state["peft.sidetuning.norm_0.alpha"])
    assert base.dim() == 5
    torch.testing.assert_close(out, alpha * base + (1 - alpha) * own, rtol=1e-10, atol=1e-10)


def test_the_start_weighs_the_backbone_as_asked():
    """a is where the sigmoid is alpha; the convolutions and P start as torch's own."""
    model = vpeft.attach(again("mmpretrain.VisionTransformer"), {**METHOD, "alpha": 0.9})
    blend = model.peft["sidetuning"]["norm_0"]
    assert float(torch.sigmoid(blend.alpha.detach())) == pytest.approx(0.9)
    assert 0.95 / 6**0.5 < float(blend.project.weight.detach().abs().max()) <= 1 / 6**0.5
    first = model.peft["sidetuning"]["network"][0].weight.detach()
    assert 0.95 / 192**0.5 < float(first.abs().max()) <= 1 / 192**0.5


@pytest.mark.parametrize(
    ("host", "method", "message"),
    [
        ("mmpretrain.VisionTransformer", {**METHOD, "width": 7}, "width=7 must be even"),
        ("timm.Xcit", METHOD, "sees the image, which is not what the patch embedding of timm.Xcit is given"),
        ("timm.Cait", METHOD, "has no output norm"),
        ("mmseg.MixVisionTransformer", METHOD, "has not one norm for each"),
    ],
)
def test_what_it_cannot_do_is_said(host, method, message):
    with pytest.raises(vpeft.UserError, match=message):
        vpeft.attach(again(host), method)
