"""``save_memory="mlp"``: the same training to the bit, with the hidden layers worked out again."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.hosts import again, inputs, loss, perturb, tokens, trained
from support.memory import DEPTH, HEADS, TOKENS, WIDTH, batch, floor_bytes, saved_bytes, small_vit
from torch import nn
from torch.utils.checkpoint import checkpoint

import vpeft
from vpeft.core.backbones.saving.again import SecondRun
from vpeft.errors import UserError

LORA = {"type": "LoRA", "targets": ["qkv"], "rank": 8}
MLP = {"save_memory": "mlp"}


def attached(method, **given) -> nn.Module:
    torch.manual_seed(1)
    model = vpeft.attach(small_vit(**given), method)
    for name, param in model.named_parameters():
        if ".up." in name:
            nn.init.normal_(param, std=0.02)
    return model


def step(model: nn.Module, call=lambda model, x: model(x)) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    images, labels = batch()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(2)
    out = call(model, images)
    F.cross_entropy(out, labels).backward()
    drawn = torch.rand(1)
    return out, {"drawn": drawn, **{name: p.grad for name, p in model.named_parameters() if p.grad is not None}}


def need_equal(ours, theirs) -> None:
    assert torch.equal(ours[0], theirs[0])
    assert ours[1].keys() == theirs[1].keys()
    assert all(torch.equal(ours[1][name], theirs[1][name]) for name in ours[1])


def test_lora_keeps_two_thirds_of_the_floor():
    # Norm 2 keeps its output in the place of its input, and no mean; of the MLP nothing else is kept.
    plain = floor_bytes(small_vit())
    block = TOKENS * (6 * WIDTH + 1 + 1 + HEADS + 8)
    first = TOKENS  # before norm 1 of the first block there is no gradient; A keeps its output
    end = 4 * TOKENS * (WIDTH + 2) + 4 * 2 * 7 + 4  # the last norm, and the cross-entropy of 7 classes
    head = 4 * TOKENS * WIDTH
    ours = saved_bytes(attached({**LORA, **MLP}))
    assert ours == 4 * (DEPTH * block - first) + end + head
    assert ours < 0.75 * plain


@pytest.mark.parametrize(
    "method",
    [
        {"type": "LoRA", "targets": ["fc1", "fc2"], "rank": 4, "drop": 0.2},
        [{"type": "AdaptFormer", "drop": 0.1}, {"type": "LoRA", "targets": ["fc1"]}],
        {"type": "Full"},
        {"type": "VPTDeep"},
        {"type": "DyT"},
    ],
)
def test_a_step_is_the_same(method, monkeypatch):
    given = {"proj_drop_rate": 0.1, "drop_path_rate": 0.2}
    methods = method if isinstance(method, list) else [method]
    model = attached([{**methods[0], **MLP}, *methods[1:]], **given)
    ours = step(model)
    # The same norms keep their output; what is run again is not.
    monkeypatch.setattr(SecondRun, "drops", lambda self, t: False)
    need_equal(ours, step(model))


@pytest.mark.parametrize("autocast", [False, True])
def test_activation_checkpointing_and_autocast(autocast):
    model = attached({**LORA, "targets": ["qkv", "fc2"], **MLP}, proj_drop_rate=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        plain = step(model)
        need_equal(step(model, lambda model, x: checkpoint(model, x, use_reentrant=False)), plain)
        model.set_grad_checkpointing(True)
        need_equal(step(model), plain)
        kept = saved_bytes(model)
    assert kept < saved_bytes(attached({**LORA, **MLP})) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_runs_the_norm_again(dtype):
    # The norm keeps its input there, of which what was kept behind it is made.
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.float32):
        ours, plain = (saved_bytes(attached({**LORA, **given}).to(dtype)) for given in (MLP, {}))
    hidden = 2 * 4 * WIDTH * DEPTH * TOKENS
    assert plain - ours == hidden


def test_it_is_a_setting_of_training_alone(tmp_path):
    model, plain = attached({**LORA, **MLP}), attached(LORA)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    images = batch()[0]
    assert model.peft_adaptation.count() == plain.peft_adaptation.count() == DEPTH * 8 * (WIDTH + 3 * WIDTH)
    vpeft.save_adapter(model, tmp_path / "adapter.safetensors")
    other = vpeft.load_adapter(small_vit(), tmp_path / "adapter.safetensors")
    with torch.no_grad():
        wanted = plain.eval()(images)
        assert torch.equal(model.eval()(images), wanted)
        assert torch.equal(other.eval()(images), wanted)
        vpeft.merge(model)
        vpeft.merge(plain)
        assert torch.equal(model(images), plain(images))
    vpeft.unmerge(model)
    assert saved_bytes(model) == saved_bytes(attached({**LORA, **MLP}))
    need_equal(step(copy.deepcopy(model)), step(model))
    vpeft.detach(model)
    assert saved_bytes(model.requires_grad_(True)) == saved_bytes(small_vit())


@pytest.mark.parametrize(
    "host",
    [
        "timm.Eva",
        "timm.SwinTransformer",
        "timm.ConvNeXt",
        "timm.VisionTransformer/norm-behind",
        "timm.MaxxVit/channels-first",
        "mmpretrain.ViTEVA02",
        "torchvision.SwinTransformer",
        "transformers.Dinov2Model",
        "mmaction.VisionTransformer",
    ],
)
def test_hosts(host, monkeypatch):
    plain = again(host)
    torch.manual_seed(1)
    method = [
        {"type": "HoulsbyAdapter", "bottleneck": 2, **MLP},
        {"type": "LoRA", "rank": 2, "targets": ["fc1", "fc2"]},
    ]
    model = perturb(vpeft.attach(plain, method)).train()
    images, results, runs = inputs(host, dtype=torch.float64), [], []
    made = SecondRun.made
    monkeypatch.setattr(SecondRun, "made", lambda self: runs.append(self.count) or made(self))
    for drops in (True, False):
        if not drops:
            monkeypatch.setattr(SecondRun, "drops", lambda self, t: False)
        model.zero_grad(set_to_none=True)
        out = tokens(model, images)
        loss(out).backward()
        results.append((out, {name: p.grad for name, p in trained(model).items()}))
    need_equal(*results)
    assert len(runs) == len(model.peft_adaptation.host.blocks)
    assert min(runs) >= 1


def test_one_process_of_several(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = attached({**LORA, **MLP})
        plain = step(model)
        wrapped = nn.parallel.DistributedDataParallel(model)
        need_equal(step(model, lambda model, x: wrapped(x)), plain)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("host", "method", "words"),
    [
        ("timm.VisionTransformer", {"type": "LoRA", "save_memory": "all"}, "save_memory='all' must be"),
        ("timm.VisionTransformer", {"type": "Linear", **MLP}, "no gradient enters the backbone"),
        ("timm.VisionTransformer/parallel", {"type": "LoRA", **MLP}, "not one that can be run again by itself"),
    ],
)
def test_what_is_refused(host, method, words):
    with pytest.raises(UserError, match=words) as refusal:
        vpeft.attach(again(host), method)
    assert len(str(refusal.value).splitlines()) == 1


def test_networks_without_blocks_are_refused():
    import torchvision

    model = torchvision.models.resnet18(num_classes=3)
    with pytest.raises(UserError, match="has no blocks"):
        vpeft.attach(model, {"type": "LoRA", **MLP}, sample=torch.randn(1, 3, 32, 32))


def test_compiling_is_refused():
    with pytest.raises(UserError, match=r"^save_memory: torch\.compile chooses by itself"):
        torch.compile(attached({**LORA, **MLP}), backend="eager")(batch()[0])
