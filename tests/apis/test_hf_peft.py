"""LoRA and DoRA in the form of HuggingFace's peft, held against peft itself in both directions."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.hosts import build, perturb
from torch import nn

import vpeft
from vpeft.apis.hf_peft import CONFIG, WEIGHTS, load_peft, save_peft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.errors import UserError

peft = pytest.importorskip("peft")
timm = pytest.importorskip("timm")


def timm_vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3).eval()


def dinov2():
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    return Dinov2Model(Dinov2Config(**sizes)).eval()


BUILD = {"timm": timm_vit, "hf": dinov2}
SIZE = {"timm": 32, "hf": 28}


def answer(model, kind):
    x = torch.randn(2, 3, SIZE[kind], SIZE[kind], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = model(x) if kind == "timm" else model(pixel_values=x)
    return out if isinstance(out, torch.Tensor) else out.last_hidden_state


@pytest.mark.parametrize(
    ("kind", "targets", "rank"),
    [
        ("timm", ["q", "v"], 8),  # a pair each of one linear: one of twice the rank
        ("timm", ["q", "proj", "fc1"], 4),  # linears of one rank beside one of another
        ("timm", ["qkv", "fc2"], 4),
        ("hf", ["q", "v"], 4),
        ("hf", ["q", "k", "v", "proj", "fc1", "fc2"], 4),
    ],
)
@pytest.mark.parametrize("method", ["LoRA", "DoRA"])
def test_peft_computes_what_vpeft_has_saved(kind, targets, rank, method, tmp_path):
    model = vpeft.attach(BUILD[kind](), {"type": method, "rank": rank, "alpha": 3, "targets": targets})
    if kind == "timm":
        nn.init.normal_(model.head.weight)
    perturb(model)
    save_peft(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(BUILD[kind](), tmp_path).eval()
    want = answer(model, kind)
    assert torch.allclose(answer(theirs, kind), want, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(answer(BUILD[kind](), kind), want, atol=1e-3)
    merged = theirs.merge_and_unload()
    assert torch.allclose(answer(merged, kind), want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("timm", {"target_modules": ["qkv"], "modules_to_save": ["head"]}),
        ("timm", {"target_modules": ["qkv", "attn.proj", "fc1", "fc2"], "use_rslora": True}),
        ("hf", {"target_modules": ["query", "value"]}),
        ("hf", {"target_modules": ["key", "attention.output.dense", "fc1"], "lora_dropout": 0.1}),
        ("timm", {"target_modules": ["qkv", "fc2"], "use_dora": True, "use_rslora": True}),
        ("hf", {"target_modules": ["query", "value"], "use_dora": True}),
    ],
)
def test_vpeft_computes_what_peft_has_saved(kind, options, tmp_path):
    theirs = peft.get_peft_model(BUILD[kind](), peft.LoraConfig(r=4, lora_alpha=6, **options)).eval()
    for name, param in theirs.named_parameters():
        if param.requires_grad:
            nn.init.normal_(param, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    theirs.save_pretrained(tmp_path)
    model = load_peft(BUILD[kind](), tmp_path)
    assert [type(m).__name__ for m in get_adaptation(model).methods.values()] == [
        "DoRA" if options.get("use_dora") else "LoRA"
    ]
    assert torch.allclose(answer(model, kind), answer(theirs, kind), atol=1e-5, rtol=1e-5)
    again = save_peft(model, tmp_path / "again")
    back = peft.PeftModel.from_pretrained(BUILD[kind](), again).eval()
    assert torch.allclose(answer(back, kind), answer(theirs, kind), atol=1e-5, rtol=1e-5)
    by_name = vpeft.load_adapter(BUILD[kind](), tmp_path)
    assert torch.equal(answer(by_name, kind), answer(model, kind))


@pytest.mark.parametrize("method", ["rsLoRA", "LoRA-FA", "PiSSA", "OLoRA"])
def test_what_is_lora_at_inference_is_kept_as_lora(method, tmp_path):
    model = perturb(vpeft.attach(timm_vit(), {"type": method, "rank": 4, "alpha": 3}))
    save_peft(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(timm_vit(), tmp_path).eval()
    assert torch.allclose(answer(theirs, "timm"), answer(model, "timm"), atol=1e-4, rtol=1e-4)


def saved(folder, **options):
    config = peft.LoraConfig(**{"r": 4, "target_modules": ["qkv"], **options})
    peft.get_peft_model(timm_vit(), config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lora_bias": True}, "has lora_bias=True: plain LoRA and DoRA are read"),
        ({"bias": "lora_only"}, "has bias='lora_only': plain LoRA and DoRA are read"),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights='pissa', which changes the base"),
        ({"target_modules": ["blocks.0.attn.qkv"]}, "not the same in every block"),
        ({"rank_pattern": {"blocks.1.attn.qkv": 2}}, r"has the ranks \[2, 4\] and scales"),
    ],
)
def test_what_is_no_plain_lora_is_refused(options, said, tmp_path):
    model = timm_vit()
    before = answer(model, "timm")
    with pytest.raises(UserError, match=said):
        load_peft(model, saved(tmp_path, **options))
    assert torch.equal(answer(model, "timm"), before)
    assert not any("peft" in key for key in model.state_dict())


def test_other_networks_and_broken_folders_are_refused(tmp_path):
    folder = saved(tmp_path / "a")
    with pytest.raises(UserError, match=r"updates blocks\.0\.attn\.qkv, 2 linears in all, and this network has none"):
        load_peft(dinov2(), folder)
    wide = timm.create_model("vit_small_patch16_224", img_size=32, depth=2, num_classes=3)
    with pytest.raises(UserError, match="it is of another network"):
        load_peft(wide, folder)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(UserError, match="holds 'IA3' of peft, and LORA alone is read"):
        load_peft(timm_vit(), folder)
    (folder / CONFIG).write_text(json.dumps({**config, "r": 0}))
    with pytest.raises(UserError, match=r"is no config of peft's LoRA \(r:"):
        load_peft(timm_vit(), folder)
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / CONFIG).write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(UserError, match=r"attn\.qkv has no lora_magnitude_vector of 576 numbers"):
        load_peft(timm_vit(), folder)
    (folder / CONFIG).write_text(json.dumps(config))
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, "base_model.model.norm.weight": torch.ones(192)}, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"holds norm\.weight, which is neither LoRA nor a head"):
        load_peft(timm_vit(), folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match="is missing, truncated or no safetensors file"):
        load_peft(timm_vit(), folder)


def test_other_methods_are_not_kept_in_that_form(tmp_path):
    with pytest.raises(UserError, match="SSF cannot be kept in peft's form: it is for one method that is LoRA or DoRA"):
        save_peft(vpeft.attach(timm_vit(), "SSF"), tmp_path)
    model = vpeft.attach(timm_vit(), "LoRA")
    vpeft.merge(model)
    with pytest.raises(UserError, match="unmerge it before saving"):
        save_peft(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_chosen_blocks_and_sizes_are_kept_and_what_has_no_place_is_refused(tmp_path):
    for cfg in ({"blocks": 1}, {"rank": {"block0": 2, "rest": 4}}):
        model = vpeft.attach(timm_vit(), {"type": "LoRA", **cfg})
        perturb(model)
        save_peft(model, tmp_path)
        theirs = peft.PeftModel.from_pretrained(timm_vit(), tmp_path).eval()
        assert torch.allclose(answer(theirs, "timm"), answer(model, "timm"), atol=1e-5, rtol=1e-5)
    for cfg, said in (({"extra": ["norm"]}, "parameters of the base"), ({"drop": {"block0": 0.1}}, "another drop by")):
        with pytest.raises(UserError, match=f"^the adapter holds {said}"):
            save_peft(vpeft.attach(timm_vit(), {"type": "LoRA", **cfg}), tmp_path)


def test_rows_that_lie_head_by_head_are_refused(tmp_path):
    model = vpeft.attach(build("timm.Levit"), {"type": "LoRA", "rank": 2})
    perturb(model)
    with pytest.raises(UserError, match="head by head: not kept in peft's form"):
        save_peft(model, tmp_path / "x")
