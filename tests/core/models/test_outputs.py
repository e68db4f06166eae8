"""Pooled features and class scores of models of every make."""

import pytest
import torch
from support.hosts import build, inputs
from torch import nn

import vpeft
from vpeft import UserError
from vpeft.core.models.outputs import class_scores, pooled_features

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


class Own(nn.Module):
    """A model of no library."""

    def __init__(self):
        super().__init__()
        self.backbone = build("timm.VisionTransformer", torch.float32)
        self.backbone.reset_classifier(0)
        self.classifier = nn.Linear(self.backbone.num_features, 5)

    def forward(self, images):
        return self.classifier(self.backbone(images))


def hf(name):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(image_size=32, patch_size=8, num_labels=5, **SIZES)
    return getattr(transformers, f"{name}ForImageClassification")(config)


def torchvision_vit():
    models = pytest.importorskip("torchvision.models")
    model = models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    return model


MODELS = {
    "own": (Own, "classifier"),
    "ViT": (lambda: hf("ViT"), "classifier"),
    "Dinov2": (lambda: hf("Dinov2"), "classifier"),
    "torchvision": (torchvision_vit, "heads.head"),
}


@pytest.fixture
def images():
    return inputs("timm.VisionTransformer", dtype=torch.float32)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", [None, "LoRA"])
def test_features_are_what_enters_the_head(name, method, images):
    make, head = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    if method is not None:
        vpeft.attach(model, method)
    entered = []
    model.get_submodule(head).register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    features, scores = pooled_features(model, images), class_scores(model, images)
    assert features.shape == (len(images), model.get_submodule(head).in_features)
    assert torch.equal(features, entered[0])
    output = model(images)
    assert torch.equal(scores, getattr(output, "logits", output))
    assert scores.shape == (len(images), 5)
    assert not model.get_submodule(head)._forward_hooks


@pytest.mark.parametrize("method", ["SCT", "GPS", "SPT-LoRA"])
@pytest.mark.parametrize("name", MODELS)
def test_methods_select_on_models_of_every_make(name, method, images):
    torch.manual_seed(0)
    model = vpeft.attach(MODELS[name][0](), method).train()
    vpeft.learn(model, [(images, torch.arange(len(images)) % 5)])
    assert all(module.learned for module in model.modules() if hasattr(module, "learned"))


def test_a_bare_backbone_gives_its_features_and_no_scores(images):
    model = build("timm.VisionTransformer", torch.float32)
    model.reset_classifier(0)
    bare = nn.Sequential(model).eval()
    assert torch.equal(pooled_features(bare, images), model(images))
    with pytest.raises(UserError, match="has no classification head"):
        class_scores(bare, images)


def test_a_bare_network_of_transformers_gives_what_it_pools(images):
    transformers = pytest.importorskip("transformers")
    network = transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **SIZES)).eval()
    assert torch.equal(pooled_features(network, images), network(images).pooler_output)
    network.pooler = None
    tokens = network(images).last_hidden_state
    assert torch.allclose(pooled_features(network, images), tokens.mean(1))


def test_what_is_no_output_of_a_classifier_is_said(images):
    class Odd(nn.Module):
        def forward(self, images):
            return {"a": images}

    with pytest.raises(UserError, match="Odd gives dict"):
        pooled_features(Odd(), images)


@pytest.mark.parametrize("behind", [nn.Softmax(1), nn.LogSoftmax(1), nn.Dropout(0.1)])
def test_what_stands_behind_the_head_is_not_taken_for_features(behind, images):
    own = Own().eval()
    whole = nn.Sequential(own, behind).eval()
    assert torch.equal(pooled_features(whole, images), own.backbone(images))
    assert torch.equal(class_scores(whole, images), whole(images))
