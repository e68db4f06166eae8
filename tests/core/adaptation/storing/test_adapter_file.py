"""Adapter files: what they hold, and everything that they refuse."""

import copy
import json

import pytest
import torch
from mmengine.logging import MMLogger
from safetensors import safe_open
from safetensors.torch import save_file
from support.hosts import build, perturb, tokens

import vpeft
from vpeft.algorithms.reparameter.lora import LoRA
from vpeft.apis import adapters
from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.fingerprint import old_fingerprint
from vpeft.core.adaptation.storing.adapter_file import read_adapter, read_metadata
from vpeft.core.adaptation.storing.fit import check_task
from vpeft.core.adaptation.storing.format import seal
from vpeft.core.backbones.host import Host
from vpeft.files import write_atomically

VIT, SWIN = "mmpretrain.VisionTransformer", "mmpretrain.SwinTransformer"
TIMM = "timm.VisionTransformer"


@pytest.fixture
def file(tmp_path):
    """An adapter of the test's ViT."""
    model = vpeft.attach(build(VIT), {"type": "LoRA", "rank": 4})
    perturb(model)
    return vpeft.save_adapter(model, tmp_path / "lora.safetensors")


def refused(model, file, *messages) -> None:
    """Loading ends in a message, and the model is as before."""
    state, attached = copy.deepcopy(model.state_dict()), get_adaptation(model)
    with pytest.raises(vpeft.UserError) as error:
        vpeft.load_adapter(model, file)
    for message in (*messages, str(file)):
        assert message in str(error.value)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert get_adaptation(model) is attached


def test_what_a_file_says(file):
    with safe_open(file, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["vpeft"])
        keys = list(opened.keys())
    assert metadata["format"] == "vpeft-adapter-2"
    assert metadata["methods"] == [
        {"type": "LoRA", "rank": 4, "alpha": None, "targets": ["q", "v"], "drop": 0.0},
    ]
    assert metadata["host"]["name"] == VIT
    assert len(metadata["base"]["fingerprint"]) == 64
    assert all(".peft.lora." in key for key in keys)
    blocks = len({key.split(".")[1] for key in keys})
    assert len(keys) == 4 * blocks


def test_the_fingerprint_is_of_the_base_alone(tmp_path):
    prints = []
    for cfg in ("LoRA", "BitFit", "Full"):
        model = vpeft.attach(build(VIT), cfg)
        perturb(model)
        with safe_open(vpeft.save_adapter(model, tmp_path / cfg), framework="pt") as opened:
            prints.append(json.loads(opened.metadata()["vpeft"])["base"]["fingerprint"])
    assert len(set(prints)) == 1


def test_another_host(file):
    refused(build(SWIN), file, "belongs to another host", VIT, SWIN)
    refused(build(TIMM), file, "belongs to another host")


@pytest.mark.parametrize("options", [{"img_size": 48}, {"layer_scale_init_value": 0.1}, {"with_cls_token": False}])
def test_other_shapes(file, options):
    if "with_cls_token" in options:
        options = {**options, "out_type": "avg_featmap"}
    refused(build(VIT, **options), file, "")


def test_other_base_weights(file):
    model = build(VIT)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    refused(model, file, "was trained on other base weights", "fingerprint")


def test_another_method_is_attached(file):
    refused(vpeft.attach(build(VIT), "SSF"), file, "'type': 'SSF'", "is attached: detach it first")


def test_other_hyper_parameters_are_attached(file):
    refused(vpeft.attach(build(VIT), {"type": "LoRA", "rank": 5}), file, "detach it first")


def test_a_base_with_other_buffers_is_another_base(tmp_path):
    """VideoMAE's positions are a buffer, which image weights replace."""
    name = "mmaction.VisionTransformer"
    file = vpeft.save_adapter(vpeft.attach(build(name), "LoRA"), tmp_path / "video.safetensors")
    other = build(name)
    assert "pos_embed" in dict(other.named_buffers())
    other.pos_embed.add_(0.1)
    refused(other, file, "other base")
    vpeft.load_adapter(build(name), file)


def test_truncated(file):
    file.write_bytes(file.read_bytes()[:-100])
    refused(build(VIT), file, "is truncated or no safetensors file")


def test_foreign_files(file, tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    refused(build(VIT), tmp_path / "other.safetensors", "no description of a vpeft adapter")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    refused(build(VIT), tmp_path / "other.pth", "no safetensors file")
    refused(build(VIT), tmp_path / "missing.safetensors", "does not exist")


def parts(file):
    with safe_open(file, framework="pt") as opened:
        return {k: opened.get_tensor(k) for k in opened.keys()}, json.loads(opened.metadata()["vpeft"])  # noqa: SIM118


def write(tensors, metadata, path, sealed=False):
    """An adapter file by hand; ``sealed`` with a sum that is right."""
    metadata = seal(metadata, tensors, tensors) if sealed else metadata
    save_file(tensors, path, {"vpeft": json.dumps(metadata)})
    return path


def changes(tensors):
    """What may have happened to a file's tensors, and what is said of it."""
    first, second = sorted(tensors)[:2]
    bit = tensors[first].clone()
    bit.view(torch.int64)[0, 0] ^= 1
    return {
        "missing": ({k: v for k, v in tensors.items() if k != first}, f"{first} is missing"),
        "added": ({**tensors, "layers.0.more": torch.zeros(1)}, "layers.0.more was added"),
        "renamed": ({("x" + k if k == first else k): v for k, v in tensors.items()}, f"x{first} was added"),
        "exchanged": ({**tensors, first: tensors[second], second: tensors[first]}, "was changed"),
        "shape": ({**tensors, first: torch.zeros(3, 3).double()}, "(3, 3)"),
        "flat": ({**tensors, first: tensors[first].flatten()}, f"{first} is float64 ({tensors[first].numel()},)"),
        "integers": ({**tensors, first: tensors[first].long()}, f"{first} is int64"),
        "half": ({**tensors, first: tensors[first].half()}, f"{first} is float16"),
        "one bit": ({**tensors, first: bit}, "SHA-256"),
        "zeros": ({**tensors, first: tensors[first] * 0}, "SHA-256"),
    }


def test_changed_tensors_are_named(file, tmp_path):
    tensors, metadata = parts(file)
    for name, (changed, message) in changes(tensors).items():
        path = write(changed, metadata, tmp_path / f"{name.replace(' ', '_')}.safetensors")
        refused(build(VIT), path, message, "copy or train it again".capitalize())


def test_tensors_that_never_fitted_are_named(file, tmp_path):
    """The sum is right: such files are made by hand."""
    tensors, metadata = parts(file)
    first = sorted(tensors)[0]
    messages = {"missing": f"1 keys missing ['{first}']", "added": "1 unexpected", "shape": "(3, 3)"}
    messages |= {"integers": "torch.int64", "flat": "has the shape"}
    for name, message in messages.items():
        path = write(changes(tensors)[name][0], metadata, tmp_path / f"{name}.safetensors", sealed=True)
        refused(build(VIT), path, message, first if name != "added" else "layers.0.more")
    for value in (float("nan"), float("inf")):
        bad = {**tensors, first: torch.full_like(tensors[first], value)}
        refused(build(VIT), write(bad, metadata, tmp_path / "nan.safetensors", sealed=True), first, "NaN or infinity")


def test_nan_is_not_written(tmp_path):
    model = vpeft.attach(build(VIT), "LoRA")
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if ".peft." in n)[0] = float("nan")
    with pytest.raises(vpeft.UserError, match=r"nan\.safetensors is not written: .* holds NaN or infinity"):
        vpeft.save_adapter(model, tmp_path / "nan.safetensors")
    assert not list(tmp_path.iterdir())


def test_descriptions_of_all_kinds(file, tmp_path):
    """What a file says is seen before it is used."""
    tensors, metadata = parts(file)
    path, lora = tmp_path / "said.safetensors", metadata["methods"][0]
    for changed, *messages in [
        ({"format": "vpeft-adapter-37"}, "vpeft-adapter-37", "newer vpeft"),
        ({"format": "something"}, "describes no vpeft adapter (format"),
        ({"format": 2}, "describes no vpeft adapter (format"),
        ({"methods": "LoRA"}, "describes no vpeft adapter (methods"),
        ({"methods": [{**lora, "rank": {"type": "os.system"}}]}, "describes no vpeft adapter (methods.0.rank"),
        ({"methods": [{**lora, "rank": 3}]}, "SHA-256"),
        ({"host": None}, "describes no vpeft adapter (host"),
        ({"base": "0"}, "describes no vpeft adapter (base"),
        ({"base": {**metadata["base"], "tensors": {"a": 1}}}, "describes no vpeft adapter (base.tensors.a"),
        ({"tensors": {}}, "was added"),
        ({"tensors": {k: [v[0]] for k, v in metadata["tensors"].items()}}, "describes no vpeft adapter (tensors."),
        ({"sha256": "a" * 64}, "SHA-256"),
        ({"classes": ["a\nb"]}, "SHA-256"),
        ({"classes": "ab"}, "describes no vpeft adapter (classes"),
        ({"prefix": 3}, "describes no vpeft adapter (prefix"),
    ]:
        refused(build(VIT), write(tensors, {**metadata, **changed}, path), *messages)
    for left_out in metadata:
        changed = {k: v for k, v in metadata.items() if k != left_out}
        refused(build(VIT), write(tensors, changed, path), "describes no")
    for text in ("[]", "null", "{", "[" * 100_000, json.dumps(metadata).replace(", ", ","), ""):
        save_file(tensors, path, {"vpeft": text})
        refused(build(VIT), path, "descri")


@pytest.mark.parametrize("kind", ["os.system", "vpeft.os.system", "mmengine.Config", "LoRa", "torch.load"])
def test_only_methods_are_built(file, tmp_path, kind):
    tensors, metadata = parts(file)
    changed = {**metadata, "methods": [{"type": kind, "rank": 4}]}
    path = write(tensors, changed, tmp_path / "type.safetensors", sealed=True)
    refused(build(VIT), path, "unknown PEFT method")


def test_files_of_the_first_format_are_read_and_said_to_carry_no_sum(file, tmp_path, caplog):
    tensors, metadata = parts(file)
    old = {k: metadata[k] for k in ("methods", "host", "head", "prefix")}
    old["fingerprint"] = old_fingerprint(get_adaptation(vpeft.attach(build(VIT), "LoRA")).base.tensors())
    path = write(tensors, {"format": "vpeft-adapter-1", **old}, tmp_path / "old.safetensors")
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        one = vpeft.load_adapter(build(VIT), path)
    finally:
        logger.removeHandler(caplog.handler)
    assert [r.getMessage() for r in caplog.records if "carries no sum" in r.getMessage()]
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(tokens(one, images), tokens(vpeft.load_adapter(build(VIT), file), images))
    first = sorted(tensors)[0]
    path = write({k: v for k, v in tensors.items() if k != first}, {"format": "vpeft-adapter-1", **old}, path)
    refused(build(VIT), path, "1 keys missing", first)


def test_flipped_bits(file):
    """Of everything in the file: sizes, names, description, values."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    places = [*range(0, 8), *range(8, 8 + size, 23), *range(8 + size, len(data), 997)]
    for at in places:
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        file.write_bytes(changed)
        with pytest.raises(vpeft.UserError) as error:
            read_adapter(file)
        assert len(str(error.value).splitlines()) == 1
    assert len(places) > 100


def test_classes_and_task_are_kept(tmp_path):
    path = vpeft.save_adapter(
        vpeft.attach(build(VIT), "LoRA"), tmp_path / "a.safetensors", True, ("cat", "dog"), "pets"
    )
    metadata = read_metadata(path)
    assert (metadata["classes"], metadata["task"]) == (["cat", "dog"], "pets")
    check_task(metadata, "a", "pets", ["cat", "dog"])
    check_task(metadata, "a", None, None)
    check_task({**metadata, "head": False}, "a", "cars", ["one"])
    for task, classes, message in [
        ("cars", None, "trained on the task 'pets', and this is 'cars'"),
        ("pets", ["dog", "cat"], "number 0 is 'cat' there, 'dog' in these data"),
        ("pets", ["cat"], "knows 2 classes, and these data have 1"),
    ]:
        with pytest.raises(vpeft.UserError, match=message):
            check_task(metadata, "a", task, classes)


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_dict_of_other_methods_is_never_loaded_in_part(strict):
    """Loaders of other packages are not strict: they would leave an adapter at its start without a word."""
    model = vpeft.attach(build(VIT), {"type": "LoRA", "rank": 4})
    before = copy.deepcopy(model.state_dict())
    other = vpeft.attach(build(VIT), {"type": "LoRA", "rank": 3}).state_dict()
    renamed = {key.replace(".lora.", ".lore."): value for key, value in before.items()}
    first = next(key for key in before if ".peft." in key)
    partly = {key: value for key, value in before.items() if key != first}
    for state, message in (
        (other, "has the shape"),
        (renamed, "keys missing"),
        (partly, f"1 keys missing ['{first}']"),
    ):
        with pytest.raises(vpeft.UserError) as error:
            model.load_state_dict(state, strict=strict)
        assert message in str(error.value)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.load_state_dict(before, strict=strict)


class Broken(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("where", "attached"),
    [("build", False), ("adopt", False), ("snapshot", False), ("put", False), ("put", True), ("copy", True)],
)
def test_whatever_fails_leaves_the_model_as_it_was(file, monkeypatch, where, attached):
    """Not only what is foreseen: memory runs out, a bug shows."""
    model = build(VIT)
    model.train()
    model.layers[0].register_forward_hook(lambda *_: None)
    next(model.parameters()).requires_grad_(False)
    if attached:
        vpeft.attach(model, {"type": "LoRA", "rank": 4})

    def everything():
        hooks = {n: (list(m._forward_hooks), list(m._forward_pre_hooks)) for n, m in model.named_modules()}
        kinds = {n: (type(m), m.training, sorted(vars(m))) for n, m in model.named_modules()}
        return hooks, kinds, [(n, id(p), p.requires_grad) for n, p in model.named_parameters()]

    def fail(*args, **kwargs):
        raise Broken("in between")

    before, state = everything(), copy.deepcopy(model.state_dict())
    target = {
        "build": (LoRA, "build"),
        "adopt": (Host, "adopt"),
        "snapshot": (Adaptation, "snapshot"),
        "put": (adapters, "put_adapter"),
    }
    if where == "copy":
        tensors, calls, original = len(parts(file)[0]), [], torch.Tensor.copy_

        def copies(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == tensors // 2:
                raise Broken("in between")
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, "copy_", copies)
    else:
        monkeypatch.setattr(*target[where], fail)
    with pytest.raises(Broken):
        vpeft.load_adapter(model, file)
    monkeypatch.undo()
    assert everything() == before
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert list(state) == list(model.state_dict())
    vpeft.load_adapter(model, file)


def test_saving_while_merged_is_refused(tmp_path):
    model = vpeft.attach(build(VIT), "LoRA")
    perturb(model)
    vpeft.merge(model)
    with pytest.raises(vpeft.UserError, match="unmerge it before saving"):
        vpeft.save_adapter(model, tmp_path / "merged.safetensors")
    assert not (tmp_path / "merged.safetensors").exists()


def test_loading_over_a_merged_adapter_is_refused(file):
    model = vpeft.load_adapter(build(VIT), file)
    vpeft.merge(model)
    refused(model, file, "merged")


def test_onto_the_same_methods(file):
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    one = vpeft.load_adapter(build(VIT), file)
    two = vpeft.attach(build(VIT), {"type": "LoRA", "rank": 4})
    perturb(two, 0.7)
    assert not torch.equal(tokens(one, images), tokens(two, images))
    assert torch.equal(tokens(vpeft.load_adapter(two, file), images), tokens(one, images))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    from pathlib import Path

    path = write_atomically(tmp_path / "file", b"old")

    def full(self, data):
        with open(self, "wb") as half:
            half.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(vpeft.UserError, match=r"file could not be written .*No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("attached", [False, True])
def test_a_file_of_before_a_setting_was_there_means_its_default(tmp_path, attached):
    method = {"type": "FacT-TK", "rank": 4}
    model = perturb(vpeft.attach(build(VIT), method))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tensors, metadata = parts(vpeft.save_adapter(model, tmp_path / "now.safetensors"))
    assert metadata["methods"][0].pop("layout") == "slices"
    file = write(tensors, metadata, tmp_path / "before.safetensors", sealed=True)
    other = build(VIT)
    if attached:
        vpeft.attach(other, {**method, "layout": "official"})
        refused(other, file, "was trained with")
        vpeft.detach(other)
        vpeft.attach(other, method)
    vpeft.load_adapter(other, file)
    assert torch.equal(tokens(other.eval(), x), tokens(model.eval(), x))
