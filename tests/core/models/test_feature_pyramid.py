"""The simple feature pyramid equals its description, re-stated plainly."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

import vpeft


def build(**settings):
    torch.manual_seed(0)
    neck = MODELS.build({"type": "vpeft.SimpleFeaturePyramid", "in_channels": 16, "out_channels": 8, **settings})
    neck.init_weights()
    with torch.no_grad():
        for param in neck.parameters():
            param.add_(torch.randn_like(param) * 0.1)
    return neck.double()


def norm(x, weights):
    """Layer norm of every place over the channels."""
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    weight, bias = next(weights), next(weights)
    return (x - mean) / (var + 1e-6).sqrt() * weight[:, None, None] + bias[:, None, None]


def up(x, weights):
    """A transposed convolution of size and stride 2: every place becomes four, each by its own matrix."""
    weight, bias = next(weights), next(weights)  # (in, out, 2, 2)
    y = torch.einsum("bchw,cdij->bdhiwj", x, weight)
    return y.reshape(len(x), weight.shape[1], 2 * x.shape[2], 2 * x.shape[3]) + bias[:, None, None]


def plain(x, scale, weights):
    if scale == 4:
        x = up(F.gelu(norm(up(x, weights), weights)), weights)
    elif scale == 2:
        x = up(x, weights)
    elif scale == 0.5:
        x = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amax((3, 5))
    x = norm(torch.einsum("bchw,dc->bdhw", x, next(weights)[:, :, 0, 0]), weights)
    padded, weight = F.pad(x, (1, 1, 1, 1)), next(weights)
    y = sum(
        torch.einsum("bchw,dc->bdhw", padded[:, :, i : i + x.shape[2], j : j + x.shape[3]], weight[:, :, i, j])
        for i in range(3)
        for j in range(3)
    )
    return norm(y, weights)


def test_it_is_the_one_of_vitdet():
    neck = build()
    maps = [torch.randn(2, 16, 6, 10, dtype=torch.float64) for _ in range(2)]
    outs = neck(maps)
    weights = iter(neck.parameters())  # in the order of the layers
    for out, scale in zip(outs, (4, 2, 1, 0.5), strict=False):
        torch.testing.assert_close(out, plain(maps[-1], scale, weights), rtol=1e-10, atol=1e-10)
    assert next(weights, None) is None
    assert torch.equal(outs[4], outs[3][:, :, ::2, ::2])
    assert [tuple(out.shape) for out in outs] == [
        (2, 8, *size) for size in ((24, 40), (12, 20), (6, 10), (3, 5), (2, 3))
    ]


@pytest.mark.parametrize(("stride", "strides"), [(16, [4, 8, 16, 32, 64]), (14, [3.5, 7, 14, 28, 56])])
def test_strides(stride, strides):
    assert build().strides(stride) == strides


def test_other_scales():
    neck = build(scales=(2, 1), num_outs=3)
    assert [out.shape[2] for out in neck([torch.randn(1, 16, 6, 6, dtype=torch.float64)])] == [12, 6, 3]
    for wrong in ({"scales": (3,)}, {"scales": ()}, {"num_outs": 3}):
        with pytest.raises(vpeft.UserError, match=r"scales are of 4, 2, 1 and 0\.5, and num_outs is their number"):
            build(**wrong)
