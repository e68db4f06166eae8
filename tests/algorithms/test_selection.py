"""Methods that select from training data: SCT's channels, GPS's entries."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.hosts import build, tokens

import vpeft
from vpeft.algorithms.specification.gps import supervised_contrastive_loss, two_views
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.models.outputs import pooled_features

VIT, SWIN = "mmpretrain.VisionTransformer", "mmpretrain.SwinTransformer"
HOSTS = (VIT, SWIN, "timm.VisionTransformer", "timm.SwinTransformer")


def batches(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=generator), torch.tensor(labels))
        for labels in ([0, 1, 1], [2, 0, 1])
    ]


def buffers(model, name):
    return {k: v.clone() for k, v in model.state_dict().items() if name in k}


@pytest.mark.parametrize("variant", ["attn", "mlp", "qkv"])
def test_sct_takes_the_channels_with_the_largest_mean_norm(variant):
    """Class by class the L2 norm over images and patch tokens, then the mean, channel by channel."""
    plain = build(VIT)
    norms = {}

    def keep(i):
        def look(module, args, out=None):
            x = (args[0] if out is None else out)[:, 1:]
            norms.setdefault(i, []).append(x.detach())

        return look

    for i, layer in enumerate(plain.layers):
        if variant == "attn":
            layer.ln2.register_forward_pre_hook(keep(i))
        elif variant == "mlp":
            layer.register_forward_hook(keep(i))
        else:
            layer.attn.qkv.register_forward_hook(keep(i))
    for x, _ in batches():
        plain(x)
    labels = torch.cat([y for _, y in batches()])
    model = build(VIT)
    vpeft.attach(model, {"type": "SCT", "channels": 5, "variant": variant})
    vpeft.learn(model, batches())
    for i, seen in norms.items():
        x = torch.cat(seen)
        score = sum(x[labels == c].pow(2).sum((0, 1)).sqrt() for c in range(3)) / 3
        for part, first in {"q": 0, "v": 128}.items() if variant == "qkv" else {"x": 0}.items():
            expected = score[first : first + 64].argsort(descending=True)[:5].sort().values
            got = model.state_dict()[f"layers.{i}.peft.sct.salient.index_{part}"]
            assert torch.equal(got, expected)
            assert not torch.equal(got, torch.arange(5))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("method", [{"type": "SCT", "channels": 5}, {"type": "GPS", "entries": 2}], ids=["sct", "gps"])
def test_the_selection_is_repeatable_stored_and_changes_nothing_else(host, method, tmp_path):
    model, again = build(host, drop_path_rate=0.0), build(host, drop_path_rate=0.0)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for m in (model, again):
        vpeft.attach(m, method)
        assert get_adaptation(m).waits_for_selection
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    flags = {k: p.requires_grad for k, p in model.named_parameters()}
    for m in (model, again):
        vpeft.learn(m, batches())
        assert not get_adaptation(m).waits_for_selection
    start = buffers(copy.deepcopy(model), "index")
    assert all(torch.equal(v, start[k]) for k, v in buffers(again, "index").items())
    assert all(torch.equal(p, before[k]) and p.grad is None for k, p in model.named_parameters())
    assert flags == {k: p.requires_grad for k, p in model.named_parameters()}
    assert not model.training
    vpeft.learn(again, batches(seed=1))
    assert any(not torch.equal(v, start[k]) for k, v in buffers(again, "index").items())

    out = tokens(model, x)
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    other = build(host, drop_path_rate=0.0)
    vpeft.load_adapter(other, tmp_path / "a.safetensors")
    assert not get_adaptation(other).waits_for_selection
    assert all(torch.equal(v, start[k]) for k, v in buffers(other, "index").items())
    torch.testing.assert_close(tokens(other, x), out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_gps_takes_the_entries_with_the_largest_gradient(rate):
    """Of cross entropy, row by row, from one pass over the images in training mode."""
    plain = build("timm.VisionTransformer", drop_path_rate=rate).train()
    torch.manual_seed(0)  # as the selection draws
    for x, y in batches():
        F.cross_entropy(plain(x), y).backward()
    model = build("timm.VisionTransformer", drop_path_rate=rate).eval()
    vpeft.attach(model, {"type": "GPS", "entries": 2, "selection": "cross_entropy"})
    vpeft.learn(model, batches())
    assert not model.training
    for key, site in {"blocks.1.attn.qkv": "blocks.1.peft.gps.qkv", "patch_embed.proj": "peft.gps.patch_embed"}.items():
        gradient = plain.get_submodule(key).weight.grad.flatten(1).abs()
        expected = gradient.argsort(dim=1, descending=True)[:, :2].sort(1).values
        assert torch.equal(model.state_dict()[f"{site}.index"], expected)


@pytest.mark.parametrize("host", [VIT, SWIN])
def test_gps_takes_the_steps_of_masked_gradients(host):
    """Three Adam steps on delta are three Adam steps on W with every other entry's gradient set to zero."""
    masked, sparse = build(host, drop_path_rate=0.0), build(host, drop_path_rate=0.0)
    vpeft.attach(sparse, {"type": "GPS", "entries": 2})
    vpeft.learn(sparse, batches())
    state = sparse.state_dict()
    vpeft.merge(sparse)
    vpeft.unmerge(sparse)
    masks = {}
    for key, index in state.items():
        if key.endswith(".index"):
            block, _, site = key.removesuffix(".index").rpartition("peft.gps.")
            masks[(block, site)] = index
    adaptation = get_adaptation(sparse)
    names = {id(m): n for n, m in sparse.named_modules()}
    weights = {}
    for name, site, block in adaptation.methods["gps"].layers(adaptation.host):
        prefix = f"{names[id(block.module)]}." if block else ""
        weights[names[id(site.module)]] = masks[(prefix, name)]
    biases = [f"{name}.bias" for name in weights if masked.get_submodule(name).bias is not None]
    for key, param in masked.named_parameters():
        param.requires_grad_(key in biases or key.removesuffix(".weight") in weights)
    # The bias of the keys has no gradient but rounding, which Adam's usual eps would blow up to whole steps.
    adam = [
        torch.optim.Adam([p for p in m.parameters() if p.requires_grad], lr=1e-2, eps=1e-4) for m in (masked, sparse)
    ]
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        for m, optimiser in zip((masked, sparse), adam, strict=True):
            optimiser.zero_grad()
            tokens(m, x).square().sum().backward()
            if m is masked:
                for name, index in weights.items():
                    grad = m.get_submodule(name).weight.grad
                    keep = torch.zeros_like(grad).flatten(1).scatter(1, index, 1.0).view_as(grad)
                    grad.mul_(keep)
            optimiser.step()
    vpeft.merge(sparse)
    plain = vpeft.plain_state_dict(sparse)
    for key, value in masked.state_dict().items():
        torch.testing.assert_close(plain[key], value, rtol=1e-9, atol=1e-11)
    size = sum(t.numel() for s in adam[1].state.values() for t in s.values() if t.dim())
    assert size == 2 * adaptation.methods["gps"].count(adaptation.host)


def test_contrastive_loss():
    z = F.normalize(torch.randn(4, 2, 5, dtype=torch.float64), dim=-1)
    labels = torch.tensor([0, 1, 0, 2])
    rows = [(z[i, v], int(labels[i]), (i, v)) for v in range(2) for i in range(4)]
    terms = []
    for a, label, me in rows:
        others = [torch.exp(a @ b / 0.1) for b, _, it in rows if it != me]
        own = [torch.exp(a @ b / 0.1) for b, other, it in rows if it != me and other == label]
        terms.append(-sum(torch.log(p / sum(others)) for p in own) / len(own))
    torch.testing.assert_close(supervised_contrastive_loss(z, labels, 0.1), sum(terms) / len(terms))


def test_two_views_are_crops_of_the_images():
    x = torch.linspace(0, 1, 64)[None, None, None].expand(300, 3, 64, 64).contiguous()
    torch.manual_seed(0)
    first, second = two_views(x)
    torch.manual_seed(0)
    again, _ = two_views(x)
    assert first.shape == second.shape == x.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    rising = first[:, 0, 0, -1] > first[:, 0, 0, 0]
    assert 0.4 < rising.float().mean() < 0.6  # the others are flipped
    spans = (first.amax(-1) - first.amin(-1))[:, 0, 0]
    # Sides of a crop of 0.08 to 1 of the area at a ratio from 3/4 to 4/3: from sqrt(0.08 * 3/4) on; their mean square
    # is about 0.5, and columns are 1/63 apart.
    assert spans.min() > (0.08 * 3 / 4) ** 0.5 - 2 / 63
    assert spans.max() <= 1
    assert 0.45 < spans.square().mean() < 0.6


def test_views_change_colours_as_far_as_they_are_known():
    mean, std = torch.tensor([120.0, 110.0, 100.0]), torch.tensor([60.0, 50.0, 40.0])
    colour = torch.tensor([0.7, 0.4, 0.2])
    x = ((colour * 255 - mean) / std)[None, :, None, None].expand(400, 3, 8, 8)
    plain, _ = two_views(x)
    torch.testing.assert_close(plain, x)
    torch.manual_seed(0)
    changed, _ = two_views(x, (mean.view(3, 1, 1), std.view(3, 1, 1)))
    seen = (changed[:, :, 0, 0] * std + mean) / 255
    same = (seen - colour).abs().amax(1) < 1e-4
    grey = (seen.amax(1) - seen.amin(1)) < 1e-4
    assert same.float().mean() == pytest.approx(0.2 * 0.8, abs=0.05)
    assert grey.float().mean() == pytest.approx(0.2, abs=0.05)
    assert (seen[~same & ~grey].argmax(1) == 0).float().mean() > 0.9  # hues go by a tenth of the circle at most
    assert seen.min() >= 0
    assert seen.max() <= 1


@pytest.mark.parametrize("host", HOSTS)
def test_pooled_features_have_a_row_per_image(host):
    features = pooled_features(build(host), batches()[0][0])
    assert features.shape[0] == 3
    assert features.dim() == 2
