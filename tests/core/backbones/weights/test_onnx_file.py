"""Weights out of ONNX files, whose graphs are never run."""

import onnx
import pytest
import torch
import transformers
from support.hosts import seeded

import vpeft
from vpeft import UserError
from vpeft.core.backbones.weights.onnx_file import read_onnx
from vpeft.core.backbones.weights.read import read_weights

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


def drawn(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter with values of its own: exporters keep equal ones once."""
    seeded(3)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn_like(param) * 0.2)
    return model.eval()


def exported(model: torch.nn.Module, path, name: str = "x", size: int = 28):
    image = torch.zeros(1, 3, size, size)
    torch.onnx.export(model, (image,), str(path), input_names=[name], dynamo=False, opset_version=14)
    return path


class Tokens(torch.nn.Module):
    """The tokens of a model of transformers, under a name as whole models have it."""

    def __init__(self, model):
        super().__init__()
        self.backbone = model

    def forward(self, x):
        return self.backbone(x).last_hidden_state


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    model = drawn(transformers.Dinov2Model(transformers.Dinov2Config(**SIZE, mlp_ratio=2)))
    return model, exported(Tokens(model), tmp_path_factory.mktemp("onnx") / "model.onnx", "input_image")


def test_every_tensor_of_the_encoder_is_found(dinov2):
    model, path = dinov2
    found = {key.removeprefix("backbone."): value for key, value in read_onnx(path).items()}
    own = {key: value for key, value in model.state_dict().items() if key != "embeddings.mask_token"}
    assert found.keys() == own.keys()
    for key, value in own.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0, msg=key)


def test_it_fills_the_librarys_model_and_timms(dinov2):
    import timm

    model, path = dinov2
    x = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = model(x).last_hidden_state
        again = transformers.Dinov2Model(model.config).eval()
        assert len(vpeft.load_pretrained(again, str(path)).missing) == 0
        torch.testing.assert_close(again(x).last_hidden_state, tokens, rtol=0, atol=0)
        other = timm.create_model(
            "vit_small_patch14_dinov2", img_size=28, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2, num_classes=0
        ).eval()
        report = vpeft.load_pretrained(other, str(path))
        assert (report.format, report.missing, report.unexpected) == ("transformers_vit", [], [])
        torch.testing.assert_close(other.forward_features(x), tokens, rtol=1e-5, atol=1e-5)


def test_a_vit_and_its_head(tmp_path):
    import timm

    config = transformers.ViTConfig(**SIZE | {"patch_size": 7}, intermediate_size=64, num_labels=3)
    model = drawn(transformers.ViTForImageClassification(config))
    other = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=28,
        patch_size=7,
        embed_dim=32,
        depth=2,
        num_heads=2,
        mlp_ratio=2,
        num_classes=0,
    ).eval()
    torch.save(model.state_dict(), tmp_path / "whole.pth")
    report = vpeft.load_pretrained(other, str(tmp_path / "whole.pth"))
    assert (report.missing, report.unexpected) == ([], [])
    x = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = model.vit(x).last_hidden_state
        torch.testing.assert_close(other.forward_features(x), tokens, rtol=1e-5, atol=1e-5)


def test_timms_own_export_comes_back(tmp_path):
    import timm

    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 4}
    model = drawn(timm.create_model("vit_tiny_patch16_224", **options))
    path = exported(model, tmp_path / "timm.onnx", size=32)
    again = timm.create_model("vit_tiny_patch16_224", **options).eval()
    report = vpeft.load_pretrained(again, str(path))
    assert (report.missing, report.unexpected) == ([], [])
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_tensors_in_other_files_are_refused(dinov2, tmp_path):
    model = onnx.load(str(dinov2[1]))
    path = tmp_path / "parted.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="parted.data", size_threshold=16)
    with pytest.raises(UserError, match=r"keeps \d+ of its tensors in other files: export it as one file"):
        read_weights(str(path))


def test_a_damaged_file_is_refused(dinov2, tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(dinov2[1].read_bytes()[:1000])
    with pytest.raises(UserError, match="cut short, or not an ONNX file"):
        read_weights(str(path))
