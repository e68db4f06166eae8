"""Prompts of pixels at another size than theirs, on clips, and refused."""

import pytest
import torch
from support.hosts import build, inputs, tokens

import vpeft
from vpeft.core.backbones.sites.flow import Flow
from vpeft.errors import UserError


def placed(host, **method):
    model = vpeft.attach(build(host), method)
    return model, model.peft_adaptation.host.sites["image"].entries[0].module


def test_a_border_of_one_colour_stays_one_on_images_of_another_size():
    """At twice the size it is twice as wide, and what is inside is the image made smaller."""
    _, border = placed("mmpretrain.VisionTransformer", type="EVP", pad=4, image_size=(32, 24))
    with torch.no_grad():
        for band in border.parameters():
            band.fill_(7.0)
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    y = border(x, Flow())
    outer = y.clone()
    outer[:, :, 8:-8, 8:-8] = 7.0
    assert (outer[:, :, :7] == 7).all()
    assert (outer[..., :7] == 7).all()
    small = torch.nn.functional.interpolate(x, (48, 32), mode="bicubic", antialias=True)
    torch.testing.assert_close(y[:, :, 8:-8, 8:-8], small)


def test_every_frame_of_a_clip_is_changed_alike():
    _, border = placed("mmaction.VisionTransformer", type="EVP", pad=4, image_size=(32, 32))
    clip = torch.randn(2, 3, 1, 32, 32, dtype=torch.float64).expand(-1, -1, 4, -1, -1)
    out = border(clip, Flow())
    assert out.shape == clip.shape
    assert torch.equal(out, border(clip[:, :, 0], Flow())[:, :, None].expand_as(out))


def test_the_plain_backbone_sees_what_the_frame_gives():
    host = "timm.SwinTransformer"
    model, frame = placed(host, type="VP", pad=3, image_size=(32, 32))
    x = inputs(host, 2, torch.float64)
    assert torch.equal(tokens(model.eval(), x), tokens(build(host).eval(), frame(x, Flow())))


@pytest.mark.parametrize("name", ["EVP", "ILM-VP"])
@pytest.mark.parametrize("host", ["mmdet.SwinTransformer", "mmseg.VisionTransformer", "transformers.SamVisionEncoder"])
def test_nothing_is_moved_where_maps_are_read(name, host):
    with pytest.raises(UserError, match=f"^{name} makes the image smaller: maps of this {host} would show things at"):
        placed(host, type=name)
    placed(host, type="VP", pad=3, image_size=(32, 32))


def test_what_does_not_fit_is_refused():
    with pytest.raises(vpeft.UserError, match="above twice the pad of 16"):
        placed("mmpretrain.VisionTransformer", type="VP", pad=16, image_size=(32, 32))
    with pytest.raises(vpeft.UserError, match="one value, or one for each of 3"):
        placed("mmpretrain.VisionTransformer", type="ILM-VP", mean=(1.0, 2.0))
    with pytest.raises(vpeft.UserError, match="is given patches"):
        placed("timm.NaFlexVit", type="VP")


@pytest.mark.parametrize("host", ["transformers.VideoMAEModel", "transformers.TimesformerModel"])
def test_a_frame_is_of_colours_where_frames_stand_before_them(host):
    """Three frames and three colours cannot be told apart by their number."""
    clips = inputs(host, dtype=torch.float64)
    model, frame = placed(host, type="VP", pad=2, image_size=tuple(clips.shape[-2:]))
    seen = []
    read = model.embeddings.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(clips)
    read.remove()
    added = seen[0] - clips
    assert torch.allclose(added, frame.whole().expand_as(added), atol=1e-5)
    assert added.abs().max() > 1
