"""Where the base comes from is known: from a file, given in hand, or never loaded; and what is the same base."""

import copy
import json
import logging
import re
from collections import OrderedDict

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from support.hosts import TINY, build, inputs, perturb, tokens

import vpeft
from vpeft.apis.testing.hosts.mmpretrain.vit import ARCH
from vpeft.core.adaptation import fingerprint
from vpeft.core.adaptation.base_weights import INIT_CFG, LOAD_FROM
from vpeft.core.adaptation.find import find_adaptation
from vpeft.core.adaptation.storing.checkpoint import note_base
from vpeft.core.backbones.weights import load_pretrained
from vpeft.core.models.build import meta_build

VIT = "mmpretrain.VisionTransformer"
LORA = {"type": "LoRA", "rank": 2}
hosts = pytest.mark.parametrize("host", sorted(TINY))


@pytest.fixture
def said():
    """What mmengine's logger says from WARNING on."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def peft(method=LORA, **options) -> torch.nn.Module:
    """A small ViT as a config builds it."""
    vit = {"arch": ARCH, "img_size": 32, "patch_size": 8, "out_type": "raw", **options}
    return MODELS.build({"type": "vpeft.PEFT", "of": "mmpretrain.VisionTransformer", "method": method, **vit})


@pytest.mark.parametrize(("method", "part"), [("DoRA", "magnitude"), ("PiSSA", ".up."), ("LST", ".blocks.")])
def test_what_starts_from_the_base_starts_anew_on_another(method, part):
    """Unless it has learned, or is loaded too."""
    base, x = build(VIT), inputs(VIT, 2, torch.float64)
    model = vpeft.attach(copy.deepcopy(base), method)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for param in base.parameters():
            param.mul_(1.5)
    model.load_state_dict(base.state_dict(), strict=False)
    state = vpeft.attach(copy.deepcopy(base), method).state_dict()
    keys = [key for key in state if "peft" in key and part in key and state[key].any()]
    assert keys
    assert any(not torch.allclose(before[key], state[key], rtol=1e-2) for key in keys)
    for key in keys:
        torch.testing.assert_close(model.state_dict()[key], state[key], rtol=1e-6, atol=1e-6)
    if method != "LST":
        assert (tokens(model, x) - tokens(base, x)).abs().max() <= 1e-12
    learned = {key: value.clone() for key, value in perturb(model).state_dict().items() if "peft" in key}
    model.load_state_dict({key: value * 2 for key, value in base.state_dict().items()}, strict=False)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in learned.items())
    other = vpeft.attach(build(VIT), method)
    other.load_state_dict(model.state_dict())
    assert torch.equal(tokens(other, x), tokens(model, x))


def pretrained(file) -> dict:
    return {"type": "Pretrained", "checkpoint": str(file)}


@pytest.fixture
def weights(tmp_path):
    """A file of base weights."""
    state = build(VIT, torch.float32).state_dict()
    torch.save(state, tmp_path / "base.pth")
    return tmp_path / "base.pth"


@pytest.fixture
def adapter(tmp_path):
    """An adapter that was trained on the float32 base, and its output."""
    model = perturb(vpeft.attach(build(VIT, torch.float32), LORA))
    file = vpeft.save_adapter(model, tmp_path / "lora.safetensors")
    return file, model


def base_of(model):
    return find_adaptation(model).base


def same_base(model, weights) -> bool:
    state = model.state_dict()
    return all(torch.equal(state[key], value) for key, value in torch.load(weights).items())


# Where it comes from --------------------------------------------------------------------------------------------------


def test_the_sources(weights):
    assert base_of(vpeft.attach(build(VIT), LORA)).source == "given"
    assert base_of(peft()).source == "never"
    assert base_of(peft(base="random")).source == "random"
    model = peft(init_cfg=pretrained(weights))
    assert base_of(model).source == "never"
    model.init_weights()
    base = base_of(model)
    assert (base.source, base.file, base.by) == ("file", str(weights), "init_cfg")
    assert same_base(model, weights)


def test_a_file_among_other_initialisers(weights):
    """mmengine takes a list too; ``VisionTransformer.init_weights`` alone would overwrite the loaded positions."""
    model = peft(init_cfg=[{"type": "TruncNormal", "layer": "Linear", "std": 0.02}, pretrained(weights)])
    model.init_weights()
    assert base_of(model).source == "file"
    assert same_base(model, weights)


def test_a_state_dict_gives_the_base(weights):
    model, state = peft(), torch.load(weights)
    model.load_state_dict(state, strict=False)
    assert base_of(model).source == "given"
    other = peft()
    lacking = {key: value for key, value in state.items() if key != "layers.0.ln1.weight"}
    other.load_state_dict(lacking, strict=False)
    assert base_of(other).source == "never"


def test_initialisers_leave_a_base_alone_that_was_given(weights):
    model = vpeft.attach(build(VIT, torch.float32), LORA)
    state = copy.deepcopy(model.state_dict())
    model.init_weights()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items() if ".peft." not in key)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "imagenet"}, "base='imagenet' of vpeft.PEFT: it is 'random' or left out"),
        ({"base": "random", "init_cfg": pretrained("vit.pth")}, "beside the file vit.pth"),
    ],
)
def test_wrong_words_about_the_base(options, message):
    with pytest.raises(vpeft.UserError, match=message):
        peft(**options)


# A base that was never loaded -----------------------------------------------------------------------------------------


def test_what_was_never_loaded_does_not_answer_once_trained(images):
    model, images = peft().eval(), images.float()
    model(images)  # as it is built: parameters can be counted, shapes be seen
    model.init_weights()
    model(images)
    model.train()
    model(images)[0].sum().backward()  # a loop of one's own
    perturb(model)
    model(images)
    model.eval()
    for act in (lambda: model(images), lambda: vpeft.save_adapter(model, "never")):
        with pytest.raises(
            vpeft.UserError, match=r"frozen base \(VisionTransformer\) got no weights .*init_cfg"
        ) as error:
            act()
        assert len(str(error.value).splitlines()) == 1


def test_a_random_base_that_is_meant_answers(images, tmp_path):
    model = peft(base="random").eval()
    model.init_weights()
    out = perturb(model)(images.float())[0]
    file = vpeft.save_adapter(model, tmp_path / "random.safetensors")
    other = peft(base="random").eval()
    other.init_weights()
    assert not torch.equal(other(images.float())[0], out)
    assert torch.equal(vpeft.load_adapter(other, file)(images.float())[0], out)  # the file holds the base
    with pytest.raises(vpeft.UserError, match=r"trained on other base weights, random ones \(base='random'\)"):
        vpeft.load_adapter(build(VIT, torch.float32), file)


def test_nothing_frozen_needs_no_file(images):
    model = peft("Full").eval()
    model.init_weights()
    perturb(model)(images.float())
    other = peft("Full").eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images.float())[0], model(images.float())[0])
    never = peft("Full", init_cfg=pretrained("gone.pth")).eval()
    never.load_state_dict(learned(vpeft.attach(build(VIT, torch.float32), "Full")))
    never(images.float())
    with pytest.raises(vpeft.UserError, match="its own answers would go by random ones"), vpeft.disabled(never):
        pass


def test_a_meta_build_counts(weights):
    with meta_build():
        model = peft(init_cfg=pretrained(weights))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 3 * 2 * 2 * (64 + 64)


def test_the_guard_leaves_with_the_base(weights):
    model = peft(init_cfg=pretrained(weights))
    assert len(model.patch_embed._forward_pre_hooks) == 2
    model.init_weights()
    assert len(model.patch_embed._forward_pre_hooks) == 1
    vpeft.detach(model)
    assert not model.patch_embed._forward_pre_hooks
    assert not model._load_state_dict_post_hooks


# State dicts without the base -----------------------------------------------------------------------------------------


def learned(model: torch.nn.Module, noted: bool = True) -> dict:
    """What a run's checkpoint holds of a bare backbone."""
    own = find_adaptation(model).own_keys()
    checkpoint = {"state_dict": OrderedDict((k, v.clone()) for k, v in model.state_dict().items() if k in own)}
    if noted:
        note_base(checkpoint, "", base_of(model).describe())
    return checkpoint["state_dict"]


@pytest.fixture
def trained(weights):
    model = peft(init_cfg=pretrained(weights)).eval()
    model.init_weights()
    return perturb(model)


@pytest.mark.parametrize("load", [torch.nn.Module.load_state_dict, load_state_dict], ids=["torch", "mmengine"])
@pytest.mark.parametrize("init_cfg", [True, False], ids=["init_cfg", "as-the-checkpoint-says"])
def test_the_file_is_loaded_then(trained, weights, images, load, init_cfg):
    model = peft(init_cfg=pretrained(weights) if init_cfg else None).eval()
    load(model, learned(trained))
    assert torch.equal(model(images.float())[0], trained(images.float())[0])
    assert base_of(model).file == str(weights)


def test_the_file_must_be_the_one(trained, tmp_path, weights):
    state = torch.load(weights)
    state["layers.1.ffn.layers.0.0.weight"][0, 0] += 1e-3
    torch.save(state, tmp_path / "other.pth")
    model = peft(init_cfg=pretrained(tmp_path / "other.pth"))
    with pytest.raises(vpeft.UserError) as error:
        model.load_state_dict(learned(trained))
    for part in ("other base weights", str(weights), "other.pth", "layers.1.ffn.layers.0.0.weight has other values"):
        assert part in str(error.value)


def test_a_file_that_is_gone_is_refused(trained, weights):
    state = learned(trained)
    weights.unlink()
    with pytest.raises(vpeft.UserError, match=r"base\.pth: no such file"):
        peft().load_state_dict(state)


@pytest.mark.parametrize("by", [INIT_CFG, LOAD_FROM])
def test_an_address_that_a_checkpoint_names_is_not_followed(trained, by):
    base_of(trained).file, base_of(trained).by = "http://127.0.0.1:9/base.pth", by
    with pytest.raises(vpeft.UserError, match="an address, which is followed only where the config names it"):
        peft().load_state_dict(learned(trained))


def test_a_state_dict_that_says_nothing(trained, weights, images, said):
    state = learned(trained, noted=False)
    with pytest.raises(vpeft.UserError, match=r"holds no base weights, and the base .* was never loaded"):
        peft().load_state_dict(state)
    model = peft(init_cfg=pretrained(weights)).eval()
    model.load_state_dict(state)
    assert torch.equal(model(images.float())[0], trained(images.float())[0])
    assert any("does not say which they are" in line and str(weights) in line for line in said)


@pytest.mark.parametrize("note", [{"tensors": 3}, {"file": 1, "by": "load_from"}, [], {"by": "load_from"}])
def test_a_broken_note_is_refused(trained, weights, note):
    state = learned(trained)
    state._metadata[""]["peft_base"] = note
    with pytest.raises(vpeft.UserError, match="does not describe a base"):
        peft(init_cfg=pretrained(weights)).load_state_dict(state)


# The same base --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("here", ["float64", "float32", "float16", "bfloat16"])
def test_another_precision_is_no_other_base(there, here, tmp_path, said):
    def model(dtype):
        return build(VIT, torch.float32).to(getattr(torch, dtype))

    file = vpeft.save_adapter(perturb(vpeft.attach(model(there), LORA)), tmp_path / "lora.safetensors")
    other = model(here)
    if {there, here} == {"float16", "bfloat16"}:
        with pytest.raises(vpeft.UserError, match=f"{there} there, {here} here, and neither holds the other's values"):
            vpeft.load_adapter(other, file)
        return
    vpeft.load_adapter(other, file)
    lines = [line for line in said if "the same but for rounding" in line]
    assert len(lines) == (there != here.replace("64", "32"))
    assert all(
        f"the base in {there.replace('64', '32')}, which is here in {here.replace('64', '32')}" in line
        for line in lines
    )
    with torch.no_grad():
        other.layers[0].ln1.weight[0] *= 1.02  # seen at every precision
    with pytest.raises(vpeft.UserError, match=r"layers\.0\.ln1\.weight has other values"):
        base_of(other).check(json.loads(safe_open(file, "pt").metadata()["vpeft"])["base"], "it")


@pytest.mark.parametrize("host", sorted(host for host in TINY if TINY[host].larger))
def test_positions_of_another_size_are_no_other_base(host, tmp_path, said):
    file = vpeft.save_adapter(perturb(vpeft.attach(build(host), LORA)), tmp_path / "lora.safetensors", head=False)
    options, shape = TINY[host].larger
    state, other = build(host).state_dict(), build(host, **options)
    fits = {key: value for key, value in state.items() if other.state_dict()[key].shape == value.shape}
    assert len(fits) < len(state)
    other.load_state_dict(fits, strict=False)
    vpeft.load_adapter(other, file)
    (line,) = [line for line in said if "another input size" in line]
    first = re.search(r"tables were resized \((\S+) ", line)[1]
    assert any(key.endswith(first) for key in state.keys() - fits.keys())
    if host == VIT:
        assert "[1, 17, 64] there, [1, 37, 64] here" in line
    if shape:
        assert torch.isfinite(tokens(other, inputs(host, 1, torch.float64, shape=shape))).all()
    vpeft.detach(other)
    with torch.no_grad():
        next(p for name, p in other.named_parameters() if name.endswith("weight")).view(-1)[0] += 1e-3
    with pytest.raises(vpeft.UserError, match="other base weights"):
        vpeft.load_adapter(other, file)


def test_other_shapes_are_another_base(adapter):
    file, _ = adapter
    with pytest.raises(vpeft.UserError, match=r"other base weights .*layers\.0\.attn\.gamma1\.weight is only here"):
        vpeft.load_adapter(build(VIT, torch.float32, layer_scale_init_value=0.1), file)


def test_files_of_the_first_format(adapter, tmp_path, images):
    """They hold one SHA-256 of the whole base."""
    file, model = adapter
    with safe_open(file, framework="pt") as opened:
        metadata, tensors = json.loads(opened.metadata()["vpeft"]), {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
    old = fingerprint.old_fingerprint(base_of(model).tensors())
    kept = {key: metadata[key] for key in ("methods", "host", "head", "prefix")}
    first = {**kept, "format": "vpeft-adapter-1", "fingerprint": old}
    save_file(tensors, tmp_path / "first.safetensors", {"vpeft": json.dumps(first)})
    loaded = vpeft.load_adapter(build(VIT, torch.float32), tmp_path / "first.safetensors")
    assert torch.equal(tokens(loaded, images.float()), tokens(model, images.float()))
    other = build(VIT, torch.float32)
    with torch.no_grad():
        other.cls_token += 1e-3
    with pytest.raises(vpeft.UserError, match=f"other base weights .fingerprint {old[:12]}"):
        vpeft.load_adapter(other, tmp_path / "first.safetensors")


# Cost -----------------------------------------------------------------------------------------------------------------


def test_the_base_is_hashed_when_it_is_asked_for_and_once(monkeypatch):
    counted, original = [], fingerprint.tensor_digest
    monkeypatch.setattr(fingerprint, "tensor_digest", lambda *args: (counted.append(1), original(*args))[1])
    model = vpeft.attach(build(VIT, torch.float32), ["LoRA", "BitFit"])
    assert not counted
    first = base_of(model).fingerprint()
    once = len(counted)
    assert once == 3 * len(list(base_of(model).tensors()))
    perturb(model)  # trains biases too: the base is what they were
    assert base_of(model).fingerprint() == first
    assert len(counted) == once


@pytest.mark.parametrize("through", ["the tensor", ".data"])
def test_a_base_that_is_written_to_is_hashed_anew(through):
    model = vpeft.attach(build(VIT, torch.float32), LORA)
    first = base_of(model).fingerprint()
    weight = model.layers[0].ln1.weight
    with torch.no_grad():
        (weight if through == "the tensor" else weight.data)[0] += 1e-3
    second = base_of(model).fingerprint()
    assert second != first
    with torch.no_grad():
        weight[0] -= 1e-3
    assert base_of(model).fingerprint() != second


def test_what_describes_a_base_is_small():
    model = vpeft.attach(build(VIT, torch.float32), LORA)
    described = base_of(model).describe()
    row = described["tensors"]["layers.0.ln1.weight"]
    assert (row["role"], row["shape"], row["dtype"]) == ("norm_weight", [64], "float32")
    assert described["tensors"]["pos_embed"]["role"] == "pos_embed"
    assert len(json.dumps(described)) < 200 * len(described["tensors"])


@pytest.mark.parametrize("method", ["LoRA", "BitFit"])
def test_a_file_that_is_loaded_under_an_adapter_is_its_base(method, weights, tmp_path):
    model = vpeft.attach(build(VIT, torch.float32, drop_path_rate=0.0), method)
    with torch.no_grad():
        other = {key: value + 1 for key, value in torch.load(weights).items()}
    torch.save(other, tmp_path / "other.pth")
    load_pretrained(model, str(tmp_path / "other.pth"))
    base = find_adaptation(model).base
    assert (base.source, base.file, base.by) == ("file", str(tmp_path / "other.pth"), None)
    again = build(VIT, torch.float32)
    again.load_state_dict(other)
    assert base.fingerprint() == find_adaptation(vpeft.attach(again, method)).base.fingerprint()
    perturb(model)
    with pytest.raises(vpeft.UserError, match=r"base\.pth: what is attached to the model has learned on other weights"):
        load_pretrained(model, str(weights))
    vpeft.detach(model)
    assert all(torch.equal(value, other[key]) for key, value in model.state_dict().items())
