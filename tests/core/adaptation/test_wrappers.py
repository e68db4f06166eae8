"""Wrappers around a model, or around a part of it, are looked through."""

import copy

import pytest
import torch
from mmengine.model import BaseTTAModel, ExponentialMovingAverage, MMDistributedDataParallel
from safetensors.torch import load_file
from support.hosts import build, perturb, tokens
from torch import distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import vpeft
from vpeft.core.adaptation.find import adaptations, backbone_prefix, find_adaptation
from vpeft.core.adaptation.report import parameter_report
from vpeft.core.adaptation.storing.checkpoint import check_checkpoint, shrink_checkpoint, use_own_keys
from vpeft.core.adaptation.wrappers import named_modules, state_dict, unwrap

TIMM = "timm.VisionTransformer"
LORA = {"type": "LoRA", "rank": 4}


class Classifier(nn.Module):
    """A backbone and a head, as OpenMMLab's models have them."""

    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = build(TIMM, num_classes=0, **kwargs)
        self.head = nn.Linear(64, 3, dtype=torch.float64)

    def forward(self, x):
        return self.head(self.backbone(x))

    def test_step(self, data):
        return self(data)


class Mean(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


def compiled(model):
    return torch.compile(model, backend="eager")


def inner_compiled(model):
    model.backbone = compiled(model.backbone)
    return model


def blocks_compiled(model):
    blocks = model.backbone.blocks
    for i, block in enumerate(blocks):
        blocks[i] = compiled(block)
    return model


def blocks_checkpointed(model):
    blocks = model.backbone.blocks
    for i, block in enumerate(blocks):
        blocks[i] = checkpoint_wrapper(block)
    return model


def in_place(model):
    model.compile(backend="eager")
    return model


WRAPPERS = {
    "compiled": compiled,
    "compiled in place": in_place,
    "compiled backbone": inner_compiled,
    "compiled blocks": blocks_compiled,
    "checkpointed blocks": blocks_checkpointed,
    "data parallel": nn.DataParallel,
    "torch's average": AveragedModel,
    "mmengine's average": ExponentialMovingAverage,
    "test-time augmentation": Mean,
    "a mixture": lambda model: compiled(AveragedModel(nn.DataParallel(inner_compiled(model)))),
}
wrappers = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
whole = {name: wrap for name, wrap in WRAPPERS.items() if "blocks" not in name}
whole_wrappers = pytest.mark.parametrize("wrap", whole.values(), ids=whole)


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@wrappers
def test_saved_under_a_wrapper_and_loaded_without(wrap, images, tmp_path):
    model = perturb(vpeft.attach(Classifier(), LORA))
    truth = model(images)
    keys = set(load_file(vpeft.save_adapter(model, tmp_path / "plain")))
    wrapped = wrap(model)
    assert backbone_prefix(wrapped) == "backbone."
    assert set(load_file(vpeft.save_adapter(wrapped, tmp_path / "wrapped"))) == keys
    assert torch.equal(vpeft.load_adapter(Classifier(), tmp_path / "wrapped")(images), truth)


@whole_wrappers
def test_saved_without_and_loaded_under_a_wrapper(wrap, images, tmp_path):
    model = perturb(vpeft.attach(Classifier(), LORA))
    truth, path = model(images), vpeft.save_adapter(model, tmp_path / "plain")
    wrapped = wrap(Classifier())
    assert not torch.equal(unwrap(wrapped)(images), truth)  # compiled here, where it is compiled, for the plain model
    vpeft.load_adapter(wrapped, path)
    assert torch.equal(unwrap(wrapped)(images), truth)
    plain = Classifier()  # the head that the file has brought goes with its adapter
    with vpeft.disabled(wrapped):
        assert torch.equal(unwrap(wrapped)(images), plain(images))
    assert vpeft.merge(wrapped) == []
    torch.testing.assert_close(unwrap(wrapped)(images), truth)
    other = Classifier()
    other.load_state_dict(vpeft.plain_state_dict(wrapped))
    torch.testing.assert_close(other(images), truth)
    vpeft.detach(vpeft.unmerge(wrapped))
    assert not adaptations(wrapped)


@whole_wrappers
def test_attached_under_a_wrapper(wrap):
    wrapped = vpeft.attach(wrap(Classifier()), LORA)
    plain = vpeft.attach(Classifier(), LORA)
    assert list(state_dict(wrapped)) == list(plain.state_dict())
    assert [name for name, _ in named_modules(wrapped)] == [name for name, _ in plain.named_modules()]
    assert parameter_report(wrapped).trainable_without_head == parameter_report(plain).trainable_without_head > 0


@pytest.mark.parametrize("wrap", [blocks_compiled, blocks_checkpointed])
def test_blocks_are_wrapped_after_attaching(wrap):
    with pytest.raises(vpeft.UserError, match=r"blocks.0 stands under a \w+: attach the method first"):
        vpeft.attach(wrap(Classifier()), LORA)


def test_an_average_has_an_adaptation_of_its_own(images):
    model = vpeft.attach(build(TIMM), LORA)
    average = AveragedModel(model)
    perturb(model)
    assert find_adaptation(average) is not find_adaptation(model)
    assert find_adaptation(average).host.backbone is average.module
    vpeft.detach(average)
    assert torch.equal(tokens(average.module, images), tokens(build(TIMM), images))
    assert not torch.equal(tokens(model, images), tokens(average.module, images))


def test_a_part_that_stands_twice_is_stored_once(images, tmp_path):
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.left = self.right = build(TIMM)

        def forward(self, x):
            return self.left(x) + self.right(x.flip(-1))

    model = perturb(vpeft.attach(Siamese(), LORA))
    path = vpeft.save_adapter(model, tmp_path / "siamese")
    assert {key.split(".")[0] for key in load_file(path)} == {"left"}
    assert torch.equal(vpeft.load_adapter(Siamese(), path)(images), model(images))
    assert not any(k.startswith("right") for k in state_dict(copy.deepcopy(model)))


INSIDE = {"compiled backbone": inner_compiled, "compiled blocks": blocks_compiled, "nothing": lambda model: model}
inside = pytest.mark.parametrize("wrap", INSIDE.values(), ids=INSIDE)


@inside
@pytest.mark.parametrize("under", INSIDE.values(), ids=INSIDE)
def test_checkpoints_hold_the_plain_models_keys(wrap, under, images, tmp_path):
    model = perturb(vpeft.attach(Classifier(), LORA))
    truth = model(images)
    keys = set(load_file(vpeft.save_adapter(model, tmp_path / "plain")))
    model = wrap(model)
    checkpoint = {"state_dict": model.state_dict()}
    shrink_checkpoint(model, checkpoint)
    assert set(checkpoint["state_dict"]) == keys
    other = under(vpeft.attach(Classifier(), LORA))
    assert not torch.equal(other(images), truth)
    check_checkpoint(other, checkpoint, "epoch_1.pth")
    use_own_keys(other, checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    assert torch.equal(other(images), truth)


@inside
def test_a_plain_models_checkpoint_is_taken_under_wrappers(wrap, images):
    plain = Classifier()
    with torch.no_grad():
        for param in plain.parameters():
            param.mul_(1.1)
    model = wrap(vpeft.attach(Classifier(), LORA))
    checkpoint = {"state_dict": plain.state_dict()}
    check_checkpoint(model, checkpoint, "plain.pth")
    use_own_keys(model, checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    assert torch.equal(model(images), plain(images))


def test_a_checkpoint_of_a_part_that_stands_twice(images):
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.left = self.right = build(TIMM)

    model = perturb(vpeft.attach(Siamese(), LORA))
    checkpoint = {"state_dict": model.state_dict()}
    shrink_checkpoint(model, checkpoint)
    assert {key.split(".")[0] for key in checkpoint["state_dict"]} == {"left"}
    other = vpeft.attach(Siamese(), LORA)
    check_checkpoint(other, checkpoint, "epoch_1.pth")
    use_own_keys(other, checkpoint)
    other.load_state_dict(checkpoint["state_dict"], strict=False)
    assert torch.equal(other.right(images), model.left(images))


@pytest.mark.parametrize("wrap", [DistributedDataParallel, MMDistributedDataParallel])
def test_distributed(wrap, images, tmp_path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        model = perturb(vpeft.attach(Classifier(), LORA))
        wrapped = compiled(wrap(model))
        path = vpeft.save_adapter(wrapped, tmp_path / "wrapped")
        other = wrap(vpeft.attach(Classifier(), LORA))
        vpeft.load_adapter(other, path)
        assert torch.equal(other.module(images), model(images))
        assert parameter_report(wrapped) == parameter_report(model)
        assert vpeft.merge(other) == []
    finally:
        dist.destroy_process_group()
