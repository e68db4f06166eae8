"""``skip_unread``: the same training but for rounding, without the MLP of tokens that nothing reads."""

import re

import pytest
import torch
import torch.nn.functional as F
from support.hosts import again, inputs, loss, perturb, tokens
from support.memory import batch, small_vit
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import vpeft
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

SKIP = {"skip_unread": True}
HOSTS = [
    "mmaction.TimeSformer",
    "mmpretrain.VisionTransformer",
    "mmpretrain.DeiT3",
    "mmpretrain.ViTEVA02",
    "open_clip.VisionTransformer",
    "timm.NaFlexVit",
    "timm.VisionTransformer",
    "timm.VisionTransformer/norm-behind",
    "torchvision.VisionTransformer",
    "transformers.CLIPVisionTransformer",
    "transformers.DINOv3ViTModel",
    "transformers.TimesformerModel",
    "transformers.ViTModel",
    "transformers.Dinov2Model",
]


def undrawn(model: nn.Module) -> nn.Module:
    """Without dropout and DropPath, which draw for other tokens than they did."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "drop_prob", None), float):
            module.drop_prob = 0.0
    model.train()
    return model


def gradients(model: nn.Module, answer: torch.Tensor) -> dict[str, torch.Tensor]:
    loss(answer).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def need_close(ours, theirs) -> None:
    assert ours.keys() == theirs.keys()
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("host", HOSTS)
def test_the_gradients_are_the_same(host):
    plain, model = undrawn(again(host)), undrawn(again(host))
    vpeft.attach(plain, "PartialK")
    vpeft.attach(model, {"type": "PartialK", **SKIP})
    images = inputs(host, dtype=torch.float64)
    (answer, expected) = tokens(model, images), tokens(plain, images)
    torch.testing.assert_close(answer[:, 0], expected[:, 0], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(answer, expected)  # the rest did not pass the MLP
    need_close(gradients(model, answer[:, 0]), gradients(plain, expected[:, 0]))


def test_all_tokens_ahead_of_the_map_are_run():
    host = "timm.VisionTransformer/distilled"  # whose second head reads the second token
    plain, model = undrawn(again(host)), undrawn(again(host))
    vpeft.attach(plain, "PartialK")
    vpeft.attach(model, {"type": "PartialK", **SKIP})
    images = inputs(host, dtype=torch.float64)
    (answer, expected) = tokens(model, images)[:, :2], tokens(plain, images)[:, :2]
    torch.testing.assert_close(answer, expected, rtol=1e-12, atol=1e-12)
    need_close(gradients(model, answer), gradients(plain, expected))


METHODS = [{"type": name} for name in sorted(PEFT_METHODS.module_dict)]
METHODS += [{"type": "LoRA", "targets": ["qkv", "fc1", "fc2"]}, {"type": "LoRA", "save_memory": "mlp"}]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(map(str, method.values())))
def test_methods(method):
    """Each is refused, tells in its backward pass that it reads more, or has the gradients that it has without."""
    host = "timm.VisionTransformer"
    plain, model = again(host), again(host)
    images, found, said = inputs(host, dtype=torch.float64), [], ""
    try:
        for one, options in ((model, SKIP), (plain, {})):
            torch.manual_seed(1)
            vpeft.attach(one, {**method, **options})
            undrawn(perturb(one))
            torch.manual_seed(2)
            found.append(gradients(one, one(images)))
    except UserError as error:
        said = str(error)
    if said:
        assert re.search("skip_unread: (no gradient enters|a loss reads tokens)|looks from frame to frame", said)
    else:
        need_close(*found)


def products(model: nn.Module, images: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return counter.get_total_flops() // 2


def test_what_it_saves():
    plain = vpeft.attach(small_vit(), "PartialK").train()
    model = vpeft.attach(small_vit(), {"type": "PartialK", **SKIP}).train()
    images = batch()[0]
    fc1 = plain.blocks[-1].mlp.fc1
    count = plain.pos_embed.shape[1] - 1
    one = 2 * fc1.weight.numel()  # both linears, of one token
    assert products(plain, images) - products(model, images) == len(images) * count * 3 * one


def test_it_is_a_setting_of_training_alone(tmp_path):
    plain = vpeft.attach(small_vit(), "PartialK").train()
    model = vpeft.attach(small_vit(), {"type": "PartialK", **SKIP}).train()
    images = batch()[0]
    with torch.no_grad():
        assert torch.equal(model.forward_features(images), plain.forward_features(images))
    assert torch.equal(model.eval().forward_features(images), plain.eval().forward_features(images))
    vpeft.save_adapter(model, tmp_path / "adapter.safetensors")
    other = vpeft.load_adapter(small_vit(), tmp_path / "adapter.safetensors")
    assert products(other.train(), images) == products(model.train(), images) < products(plain.train(), images)
    assert products(vpeft.detach(model), images) == products(vpeft.detach(plain), images)


def test_activation_checkpointing():
    model = undrawn(vpeft.attach(small_vit(), {"type": "PartialK", **SKIP}))
    images, labels = batch()
    F.cross_entropy(model(images), labels).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    F.cross_entropy(checkpoint(model, images, use_reentrant=False), labels).backward()
    assert all(torch.equal(p.grad, expected[name]) for name, p in model.named_parameters() if p.grad is not None)


def test_a_compiled_model_runs_all():
    model = vpeft.attach(small_vit(), {"type": "PartialK", **SKIP}).train()
    images = batch()[0]
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))


def test_who_reads_another_token_is_told():
    model = vpeft.attach(small_vit(), {"type": "PartialK", **SKIP}).train()
    with pytest.raises(UserError, match=r"^skip_unread: a loss reads tokens of the map behind the last block"):
        model.forward_features(batch()[0]).mean().backward()


@pytest.mark.parametrize(
    ("host", "method", "words"),
    [
        ("timm.SwinTransformer", "PartialK", "gives on more than tokens ahead of the map"),
        ("mmseg.VisionTransformer", "PartialK", "gives on more than tokens ahead of the map"),
        ("mmpretrain.VisionTransformer/mean-pooled", "LoRA", "gives on more than tokens ahead of the map"),
        ("timm.VisionTransformer/parallel", "LoRA", "does not run for each token by itself"),
        ("timm.VisionTransformer", "LST", "no gradient enters the backbone"),
    ],
)
def test_refused(host, method, words):
    with pytest.raises(UserError, match=f"skip_unread: .*{words}.*leave it out"):
        vpeft.attach(again(host), {"type": method, **SKIP})


@pytest.mark.parametrize("methods", [["LST", {"type": "PartialK", **SKIP}], [{"type": "PartialK", **SKIP}, "LST"]])
def test_beside_another(methods):
    model = again("timm.VisionTransformer")
    with pytest.raises(UserError, match=r"^skip_unread is for a method that stands alone"):
        vpeft.attach(model, methods)
    assert "peft_adaptation" not in vars(model)


@pytest.mark.parametrize("other", ["LST", "LoRA"])
@pytest.mark.parametrize("first", [True, False])
def test_named_adapters_have_it_each_for_itself(other, first):
    host = "timm.VisionTransformer"
    images, plain, model = inputs(host, dtype=torch.float64), undrawn(again(host)), again(host)
    named = {"skips": {"type": "LoRA", **SKIP}, "reads": {"type": other}}
    for name in named if first else reversed(named):
        torch.manual_seed(1)
        vpeft.attach(model, named[name], name=name)
    torch.manual_seed(1)
    vpeft.attach(plain, other)
    expected = plain.forward_features(images)
    undrawn(model)
    for name in ("reads", "skips", "reads"):
        vpeft.use(model, name)
        assert torch.equal(model.forward_features(images), expected) == (name == "reads")
