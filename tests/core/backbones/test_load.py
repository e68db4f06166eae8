"""A backbone by its library's name, with the weights of a file; and what is then known of its base."""

import copy
import json
import urllib.request

import pytest
import timm
import torch
import transformers
from open_clip import get_model_config
from safetensors.torch import save_file
from support.weight_files import randomise
from timm.models import save_for_hf

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.errors import UserError

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "num_classes": 5}
LORA = {"type": "LoRA", "rank": 2}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # made once in a process, it would keep these proxies


def refused(*args, **options):
    """The message, which is one line."""
    with pytest.raises(UserError) as caught:
        vpeft.load_backbone(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def equal(model, other):
    own, theirs = model.state_dict(), other.state_dict()
    return own.keys() == theirs.keys() and all(torch.equal(own[key], theirs[key]) for key in own)


@pytest.fixture
def vit_file(tmp_path):
    """A small ViT of timm, and its file."""
    model = randomise(timm.create_model("vit_tiny_patch16_224", **VIT))
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    return model, tmp_path / "vit.safetensors"


def test_timm(vit_file):
    source, file = vit_file
    model = vpeft.load_backbone("timm/vit_tiny_patch16_224", weights=file, **VIT)
    assert type(model) is type(source)
    assert not model.training
    assert equal(model, source)
    assert vpeft.load_backbone("timm/vit_tiny_patch16_224.augreg_in21k", weights=False, **VIT).embed_dim == 32


def test_a_folder_of_timm(vit_file, tmp_path):
    source, _ = vit_file
    args = {key: value for key, value in VIT.items() if key != "num_classes"}
    save_for_hf(source, tmp_path / "vit", model_args=args, safe_serialization=True)
    model = vpeft.load_backbone(tmp_path / "vit")
    assert type(model) is type(source)
    assert equal(model, source)
    head = vpeft.load_backbone(tmp_path / "vit", num_classes=3).head
    assert head.out_features == 3


def test_transformers(tmp_path):
    source = randomise(transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**TINY)))
    source.save_pretrained(tmp_path / "dinov2")
    for name, weights in (
        (tmp_path / "dinov2", None),
        (f"hf/{tmp_path / 'dinov2'}", None),
        ("hf/facebook/dinov2-of-mine", tmp_path / "dinov2"),
        ("hf/facebook/dinov2-of-mine", tmp_path / "dinov2" / "model.safetensors"),
    ):
        model = vpeft.load_backbone(name, weights=weights)
        assert type(model) is transformers.Dinov2Model
        assert equal(model, source.dinov2)
    assert vpeft.load_backbone(tmp_path / "dinov2", layer_norm_eps=1e-3, weights=False).config.layer_norm_eps == 1e-3
    # By its type, with fields of its config.
    assert (
        vpeft.load_backbone("hf/dinov2", weights=False, hidden_size=36, num_attention_heads=4).config.hidden_size == 36
    )
    assert vpeft.load_backbone("hf/vit", weights=False, **TINY).pooler is None
    assert vpeft.load_backbone("hf/vit", weights=False, add_pooling_layer=True, **TINY).pooler is not None


def test_of_images_and_text_the_part_that_sees(tmp_path):
    text = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "vocab_size": 9}
    config = transformers.CLIPConfig(text_config=text, vision_config=TINY)
    source = randomise(transformers.CLIPModel(config))
    source.save_pretrained(tmp_path)
    model = vpeft.load_backbone(tmp_path)
    assert type(model) is transformers.CLIPVisionModel
    assert equal(model.vision_model, source.vision_model)


def test_code_in_a_folder_is_not_run(tmp_path):
    (tmp_path / "own.py").write_text("raise SystemExit('ran')")
    stated = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    assert "asks for code that lies beside the weights (auto_map), which is not run" in refused(tmp_path)
    assert "trust_remote_code=True would run code" in refused(tmp_path, trust_remote_code=True)


def test_torchvision():
    model = vpeft.load_backbone("torchvision/swin_t", weights=False, num_classes=3)
    assert model.head.out_features == 3
    message = refused("torchvision/swin_x", weights=False)
    assert message.startswith(
        "load_backbone('torchvision/swin_x'): torchvision has no model 'swin_x': did you mean 'tor"
    )
    assert message.endswith("torchvision.models.list_models() lists them.")


def test_open_clip(tmp_path):
    small = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
    model = vpeft.load_backbone("open_clip/ViT-B-16", weights=False, **small)
    assert model.conv1.weight.shape == (32, 3, 16, 16)
    # A folder as open_clip writes it.
    source = randomise(model)
    config = {**get_model_config("ViT-B-16"), "vision_cfg": small}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    state = {f"visual.{key}": value.contiguous() for key, value in source.state_dict().items()}
    save_file({**state, "logit_scale": torch.ones(1)}, tmp_path / "open_clip_model.safetensors")
    assert equal(vpeft.load_backbone(tmp_path), source)
    assert "say which weights of ViT-B-16 are meant: open_clip/ViT-B-16/openai, " in refused("open_clip/ViT-B-16")
    assert "ViT-B-16-quickgelu is the other one" in refused("open_clip/ViT-B-16/openai")


def test_mmpretrain():
    name = "deit-tiny_4xb256_in1k"
    model = vpeft.load_backbone(f"mmpretrain/{name}", weights=False)
    assert type(model).__module__.startswith("mmpretrain.models.backbones")
    assert "did you mean 'mmpretrain/deit-" in refused("mmpretrain/deit-tiny_4xb256_in1")


def test_names_that_nobody_has():
    libraries = "Libraries: timm/, hf/, torchvision/, open_clip/, mmpretrain/."
    message = refused("vit_tiny_patch16_224", weights=False)
    assert message == (
        "load_backbone('vit_tiny_patch16_224'): say of which library it is, before a slash: did you mean "
        f"'timm/vit_tiny_patch16_224'? {libraries}"
    )
    message = refused("tim/vit_tiny_patch16_224")
    assert "no library 'tim': did you mean timm/vit_tiny_patch16_224, or hf/tim/vit_tiny_patch16_224 for" in message
    assert "no library 'facebook': did you mean hf/facebook/dinov2-base for one of" in refused("facebook/dinov2-base")
    assert "did you mean 'timm/vit_tiny_patch16_224'?" in refused("timm/vit_tiny_patch16_22")
    assert "hf has no model 'dino2': did you mean 'hf/dinov2'?" in refused("hf/dino2", weights=False)
    assert "no such folder, seen from " in refused("./dinov2")
    assert "weights='none.pth': no such file, seen from " in refused("hf/dinov2", weights="none.pth")
    assert "weights=True of load_backbone" in refused("timm/vit_tiny_patch16_224", weights=True)


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "hf/facebook/dinov2-base", "torchvision/swin_t"])
def test_without_a_network(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = refused(name)
    assert "could not be fetched or built (" in message
    assert "Without a network give weights=FILE (for hf/ a folder with its config.json), or weights=False" in message


def test_options_that_the_library_does_not_take():
    message = refused("timm/vit_tiny_patch16_224", weights=False, depht=3)
    assert "the library does not build it with these options (TypeError: " in message
    assert "'depht'" in message


# What attach then knows -----------------------------------------------------------------------------------------------


def base_of(model):
    vpeft.attach(model, LORA)
    return get_adaptation(model).base


def test_the_file_is_remembered(vit_file):
    source, file = vit_file
    model = vpeft.load_backbone("timm/vit_tiny_patch16_224", weights=file, **VIT)
    twin, trained = copy.deepcopy(model), copy.deepcopy(model)
    model.reset_classifier(3)
    base = base_of(model)
    assert (base.source, base.file, base.by, base.prefix) == ("file", str(file), None, None)
    described = base.describe()
    assert described["file"] == str(file)
    assert described["fingerprint"] == base_of(source).fingerprint()
    assert base_of(twin).file == str(file)
    with torch.no_grad():
        trained.blocks[1].mlp.fc2.weight.mul_(1.01)
    assert (base_of(trained).source, get_adaptation(trained).base.file) == ("given", None)


def test_the_file_of_a_model_around_it_is_remembered(vit_file, tmp_path):
    source, _ = vit_file
    model = torch.nn.ModuleDict({"vit": copy.deepcopy(source), "task": torch.nn.Linear(5, 2)})
    file = tmp_path / "whole.safetensors"
    save_file({f"student.{key}": value.clone() for key, value in model.state_dict().items()}, file)
    vpeft.load_pretrained(model, str(file), prefix="student")
    base = base_of(model)
    assert (base.source, base.file, base.prefix) == ("file", str(file), "student.vit")
    other = vpeft.load_backbone("timm/vit_tiny_patch16_224", weights=False, **VIT)
    vpeft.load_pretrained(other, str(file), prefix=base.prefix)
    assert equal(other, source)


def test_a_model_without_weights_is_known_as_one(vit_file, tmp_path):
    model = vpeft.load_backbone("timm/vit_tiny_patch16_224", weights=False, **VIT)
    loaded = copy.deepcopy(model)
    base = base_of(model)
    assert base.source == "never"
    with pytest.raises(UserError, match=r"got no weights from anywhere"):
        vpeft.save_adapter(model, tmp_path / "adapter.safetensors")
    loaded.load_state_dict(vit_file[0].state_dict())
    assert base_of(loaded).source == "given"


def test_an_adapter_finds_its_file(vit_file, tmp_path):
    source, file = vit_file
    image = torch.randn(2, 3, 32, 32)
    model = vpeft.load_backbone("timm/vit_tiny_patch16_224", weights=file, **VIT)
    vpeft.attach(model, LORA)
    with torch.no_grad():
        for key, param in model.named_parameters():
            if ".peft." in key:
                param.normal_()
    vpeft.save_adapter(model, tmp_path / "adapter.safetensors")
    other = vpeft.load_backbone("timm/vit_tiny_patch16_224", weights=False, **VIT)
    other.head.load_state_dict(source.head.state_dict())
    vpeft.attach(other, LORA)
    vpeft.load_adapter(other, tmp_path / "adapter.safetensors")
    assert get_adaptation(other).base.file == str(file)
    with torch.no_grad():
        assert torch.equal(other(image), model(image))
    # Other weights are another base, whoever gave them.
    third = randomise(vpeft.load_backbone("timm/vit_tiny_patch16_224", weights=False, **VIT), seed=3)
    vpeft.attach(third, LORA)
    assert get_adaptation(third).base.source == "given"
    with pytest.raises(UserError, match=f"was trained on other base weights, {file}"):
        vpeft.load_adapter(third, tmp_path / "adapter.safetensors")


def test_weights_are_loaded_into_an_adapted_model_too(tmp_path):
    source = randomise(timm.create_model("vit_small_patch14_reg4_dinov2", **VIT | {"img_size": 28}))
    state = {key.replace("reg_token", "register_tokens"): value for key, value in source.state_dict().items()}
    zeros = torch.zeros(1, 1, 32)
    state |= {"pos_embed": torch.cat([zeros, state["pos_embed"]], dim=1), "mask_token": zeros[0]}
    torch.save(state, tmp_path / "dinov2.pth")
    model = timm.create_model("vit_small_patch14_reg4_dinov2", **VIT | {"img_size": 28})
    vpeft.attach(model, LORA)
    report = vpeft.load_pretrained(model, str(tmp_path / "dinov2.pth"))
    assert report.format == "timm's own converter reads it"
    with torch.no_grad():
        image = torch.randn(1, 3, 28, 28)
        assert torch.equal(model.eval()(image), source.eval()(image))
