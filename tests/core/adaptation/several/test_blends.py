"""Several adapters at once: sums, strengths, and one for each sample of a batch."""

import copy

import pytest
import torch
from support.hosts import TINY, build, inputs, perturb, tokens
from support.refusals import unless_refused
from torch import nn

import vpeft
from vpeft.core.backbones.sites.shares import Shares

VIT = "timm.VisionTransformer"
MIXED = ["a", None, "b", "a"]


def refused(act, *messages):
    with pytest.raises(vpeft.UserError) as error:
        act()
    for message in messages:
        assert message in str(error.value)


def named(model, **methods):
    """Adapters by name, each moved away from its start."""
    for seed, (name, cfg) in enumerate(methods.items()):
        vpeft.attach(model, cfg, name=name)
        perturb(model, seed=seed + 1)
    return model


@pytest.mark.parametrize("host", sorted(TINY))
def test_a_mixed_batch_answers_as_each_alone(host):
    model = unless_refused(lambda: named(build(host), a="LoRA", b={"type": "AdaptFormer", "bottleneck": 2}), host)
    x = inputs(host, len(MIXED), dtype=torch.float64)
    with torch.no_grad():
        wanted = {name: tokens(vpeft.use(model, name), x) for name in ("a", "b", None)}
        size = len(wanted["a"]) // len(x)
        unless_refused(lambda: vpeft.use(model, MIXED), "cannot be mixed")
        got = unless_refused(lambda: tokens(model, x), "names an adapter for")
    rows = {name: value.unflatten(0, (len(x), size)) for name, value in wanted.items()}
    assert not torch.allclose(rows["a"][0], rows["b"][0])
    for i, (name, row) in enumerate(zip(MIXED, got.unflatten(0, (len(x), size)), strict=True)):
        torch.testing.assert_close(row, rows[name][i], rtol=1e-5, atol=1e-6)  # some norms compute in float32


@pytest.mark.parametrize(
    "method", ["Mona", "SSF", "Convpass", "HoulsbyAdapter", "E3VA", "DTL", "Hydra", "PATT", "LAST", "DyT"]
)
@pytest.mark.parametrize("host", [VIT, "timm.SwinTransformer"])
def test_every_kind_of_placement_is_mixed(host, method):
    model = unless_refused(lambda: named(build(host), a=method, b="LoRA", c=method), method)
    names = ["c", "a", "b", "c", None]
    x = inputs(host, len(names), dtype=torch.float64)
    with torch.no_grad():
        wanted = [tokens(vpeft.use(model, name), x)[i] for i, name in enumerate(names)]
        vpeft.use(model, names)
        got = unless_refused(lambda: tokens(model, x), "they cannot be mixed")
    torch.testing.assert_close(got, torch.stack(wanted), rtol=1e-9, atol=1e-9)


def test_prompts_are_mixed_among_themselves_alone():
    x = inputs(VIT, 3, dtype=torch.float64)
    prompts = {"type": "VPTDeep", "prompt_length": 3}
    model = named(build(VIT), a=prompts, b=prompts, c="LoRA")
    with torch.no_grad():
        wanted = [tokens(vpeft.use(model, name), x)[i] for i, name in enumerate("bab")]
        torch.testing.assert_close(tokens(vpeft.use(model, list("bab")), x), torch.stack(wanted), rtol=1e-9, atol=1e-9)
        vpeft.use(model, list("cab"))
        refused(lambda: model(x), "they cannot be mixed")
        vpeft.use(model, "a")
        assert torch.equal(tokens(model, x)[1], wanted[1])


def test_each_sample_has_its_head_and_scores_beyond_its_classes_are_minus_infinity(tmp_path):
    x, plain = inputs(VIT, 4, dtype=torch.float64), build(VIT, num_classes=5)
    files, alone = {}, {}
    for seed, (name, classes) in enumerate({"a": 5, "b": 3}.items()):
        model = copy.deepcopy(plain)
        model.reset_classifier(classes)
        vpeft.attach(model.double(), "LoRA")
        perturb(model, seed=seed)
        files[name], alone[name] = vpeft.save_adapter(model, tmp_path / f"{name}.safetensors"), model(x)
    model = copy.deepcopy(plain)
    for name, file in files.items():
        vpeft.load_adapter(model, file, name=name)
    out = vpeft.use(model, ["b", "a", None, "b"])(x)
    assert out.shape == (4, 5)
    torch.testing.assert_close(out[1], alone["a"][1])
    torch.testing.assert_close(out[2], plain(x)[2])
    torch.testing.assert_close(out[[0, 3], :3], alone["b"][[0, 3]])
    assert torch.equal(out[[0, 3], 3:], torch.full((2, 2), -torch.inf, dtype=torch.float64))
    assert "forward" not in vars(vpeft.use(model, None).head)
    assert torch.equal(model(x), plain(x))


def test_what_a_mixed_model_refuses(tmp_path):
    x, model = inputs(VIT, 2, dtype=torch.float64), named(build(VIT), a="LoRA", b="BitFit", c="HST")
    refused(lambda: vpeft.use(model, ["a", "b"]), "'b' trains patch_embed.proj.bias", "cannot be mixed")
    refused(lambda: vpeft.use(model, ["a", "c"]), "'c' trains blocks.0.norm1.weight", "cannot be mixed")
    refused(lambda: vpeft.use(model, []), "no adapter is named")
    vpeft.use(model, ["a", None])
    refused(lambda: model(x[:1]), "the batch has 1 samples", "for 2")
    refused(lambda: model(torch.cat([x, x])), "the batch has 4 samples")
    refused(lambda: vpeft.save_adapter(model, tmp_path / "x.safetensors"), "the adapters a answer, sample by sample")
    refused(lambda: vpeft.merge(model), "sample by sample")
    model.train()
    refused(lambda: model(x), "nothing of it would be trained")
    model.eval()
    vpeft.use(model, "a")
    assert model(x[:1]).shape[0] == 1


class Regions(nn.Module):
    """A model whose head sees other rows than samples, as a detector's does."""

    def __init__(self):
        super().__init__()
        self.backbone = build(VIT, num_classes=0)
        self.head = nn.Linear(64, 3, dtype=torch.float64)

    def forward(self, x):
        return self.head(self.backbone.forward_features(x).flatten(0, 1))


def test_a_head_that_does_not_see_samples_is_refused():
    model = named(Regions(), a="LoRA", b="LoRA")
    vpeft.use(model, ["a", "b"])
    refused(lambda: model(inputs(VIT, 2, dtype=torch.float64)), "does not see one input for each sample")


def test_a_weighted_sum_is_that_of_the_weights():
    x, plain = inputs(VIT, 2, dtype=torch.float64), build(VIT)
    model = named(copy.deepcopy(plain), a="LoRA", b=["LoRA", "BitFit"])
    states = {}
    for name in "ab":
        one = copy.deepcopy(vpeft.use(model, name))
        vpeft.merge(one)
        states[name] = vpeft.plain_state_dict(one)
    wanted = copy.deepcopy(plain)
    refused(lambda: vpeft.use(model, {"a": 0.7, "b": 0.3}), "heads of their own", "head=")
    torch.testing.assert_close(vpeft.use(model, {"a": 1.0})(x), vpeft.use(model, "a")(x))
    with torch.no_grad():
        for key, value in wanted.state_dict().items():
            if not key.startswith("head."):
                own = plain.state_dict()[key]
                value.copy_(own + 0.7 * (states["a"][key] - own) + 0.3 * (states["b"][key] - own))
        for key in ("head.weight", "head.bias"):
            wanted.get_parameter(key).copy_(states["b"][key])
    torch.testing.assert_close(vpeft.use(model, {"a": 0.7, "b": 0.3}, head="b")(x), wanted(x), rtol=1e-9, atol=1e-9)
    vpeft.use(model, None)
    assert torch.equal(model(x), plain(x))
    model = named(copy.deepcopy(plain), a="LoRA", b="SSF")
    vpeft.use(model, ["a", "b"])
    refused(lambda: vpeft.merge(model), "sample by sample", "vpeft.use(model, name) first")
    refused(lambda: vpeft.use(model, {"a": 0.7, "b": 0.3}), "'b' (SSF) is no sum")


@pytest.mark.parametrize("host", [VIT, "timm.SwinTransformer", "timm.ConvNeXt"])
def test_a_weighted_sum_is_merged(host):
    x = inputs(host, 2, dtype=torch.float64)
    model = named(build(host), a="LoRA", b=["LoRA", "BitFit"])
    before = {key: value.clone() for key, value in vpeft.plain_state_dict(vpeft.use(model, None)).items()}
    alone = vpeft.use(model, "a")(x)
    wanted = vpeft.use(model, {"a": 0.7, "b": -0.3}, head="b")(x)
    assert vpeft.merge(model) == []
    torch.testing.assert_close(model(x), wanted, rtol=1e-9, atol=1e-9)
    plain = build(host)
    plain.load_state_dict(vpeft.plain_state_dict(model), strict=True)
    torch.testing.assert_close(plain(x), wanted, rtol=1e-9, atol=1e-9)
    for act in (lambda: vpeft.use(model, "a"), lambda: vpeft.use(model, None), lambda: vpeft.drop_adapter(model, "b")):
        refused(act, "a sum of the adapters a, b is merged into the weights: vpeft.unmerge(model) first")
    refused(lambda: vpeft.merge(model), "merged already")
    vpeft.unmerge(model)
    torch.testing.assert_close(model(x), wanted, rtol=1e-9, atol=1e-9)
    assert torch.equal(vpeft.use(model, "a")(x), alone)
    assert all(torch.equal(before[k], v) for k, v in vpeft.plain_state_dict(vpeft.use(model, None)).items())
    vpeft.use(model, {"a": 0.7, "b": -0.3}, head="b")
    vpeft.merge(model)
    vpeft.detach(model, restore=False)
    assert type(model) is type(plain)
    torch.testing.assert_close(model(x), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["LoRA", "SSF", "BitFit", "RepAdapter", "KronA"])
def test_a_strength_is_merged(method):
    x, model = inputs(VIT, 2, dtype=torch.float64), named(build(VIT), a=method)
    wanted = vpeft.use(model, {"a": 0.4})(x)
    assert vpeft.merge(model) == []
    torch.testing.assert_close(model(x), wanted, rtol=1e-9, atol=1e-9)


def test_a_strength_of_what_is_not_affine_is_not_merged():
    model = named(build(VIT), a="AdaptFormer")
    vpeft.use(model, {"a": 0.4})
    refused(lambda: vpeft.merge(model), "AdaptFormer cannot be merged into the weights")


@pytest.mark.parametrize("method", ["LoRA", "SSF", "HoulsbyAdapter", "AdaptFormer", "BitFit", "Convpass"])
def test_a_strength_leads_from_the_base_to_the_adapter(method):
    x, model = inputs(VIT, 2, dtype=torch.float64), named(build(VIT), a=method)
    with torch.no_grad():
        whole, none = tokens(vpeft.use(model, "a"), x), tokens(vpeft.use(model, None), x)
        torch.testing.assert_close(tokens(vpeft.use(model, {"a": 1.0}), x), whole)
        torch.testing.assert_close(tokens(vpeft.use(model, {"a": 0.0}), x), none)
        half = tokens(vpeft.use(model, {"a": 0.5}), x)
    assert not torch.allclose(half, whole)
    assert not torch.allclose(half, none)


def test_prompts_have_no_strength():
    model = named(build(VIT), a="VPTDeep")
    vpeft.use(model, {"a": 0.5})
    refused(lambda: model(inputs(VIT, 2, dtype=torch.float64)), "changes the number of tokens", "no strength")


def test_rows_of_samples():
    shares = Shares(["a", "b", "b", None])
    x = torch.arange(8)
    assert [x[shares.rows(name, x)].tolist() for name in shares.owners] == [[0, 1], [2, 3, 4, 5], [6, 7]]
    assert Shares(["a", "b", "a"]).rows("a", torch.zeros(6)).tolist() == [0, 1, 4, 5]
    refused(lambda: shares.rows("a", torch.zeros(6)), "a tensor of 6 rows passes the adapters of a batch of 4")
