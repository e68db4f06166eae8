"""``vpeft export``: what is written elsewhere answers as the run does, and is loaded by the line that is said."""

import json

import numpy as np
import pytest
import torch
from mmengine import Config
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from support.families import CONFIGS, family_run
from support.hosts import perturb

import vpeft
from vpeft.apis.commands.words.run.export import main
from vpeft.apis.config.load import load_config
from vpeft.apis.export import programs
from vpeft.apis.export.plain import example_images, input_size, plain_model
from vpeft.apis.export.run import export_run
from vpeft.core.models.build import build_model
from vpeft.core.models.outputs import class_scores
from vpeft.core.trained.record import run_record
from vpeft.errors import UserError

CLASSES = ["cat", "dog", "owl", *map(str, range(7))]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return family_run(tmp_path_factory.mktemp("digits"), "classes")


def library_run(folder, of, method="LoRA", **options):
    """An adapter file of a run on a library's network, and the network with its base's weights."""
    base = vpeft.load_backbone(of, weights=False, **{k: v for k, v in options.items() if k != "out"})
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in base.state_dict().items()}, folder / "base.safetensors")
    cfg = load_config(CONFIGS / "mini/lora_nano_vit.py", "digits")
    weights = str(folder / "base.safetensors")
    cfg.model.backbone = {"type": "vpeft.PEFT", "of": of, "method": method, "weights": weights, **options}
    cfg.model.head.in_channels = 32 if of.startswith("hf") else 192
    cfg = Config(cfg._cfg_dict.to_dict())
    model = build_model(cfg)
    model.init_weights()
    file = folder / "adapter.safetensors"
    return vpeft.save_adapter(perturb(model), file, classes=CLASSES, run=run_record(cfg)), base


TIMM = {"of": "timm/vit_tiny_patch16_224", "img_size": 32, "depth": 2, "out": "pooled"}


def test_onnx_takes_any_batch_and_says_its_classes(digits, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    main([str(digits), "--to", "onnx", "--out", str(tmp_path / "model.onnx")])
    said = capsys.readouterr().out
    assert "merged; the plain model differs by" in said
    assert "it takes a batch of any size" in said
    run = vpeft.load(digits, device="cpu")
    images = example_images(run, 5, seed=9)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = session.run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        want = class_scores(run.model, images)
    assert np.allclose(found, want.numpy(), atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["preprocessing"]) == run.preprocessing
    assert json.loads(facts["classes"]) == list(map(str, range(10)))


def test_onnx_takes_images_of_other_sizes(digits, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "model.onnx"
    main([str(digits), "--to", "onnx", "--out", str(out), "--dynamic-size"])
    said = capsys.readouterr().out
    assert "and images of other sizes (tried: 32 x 32, 32 x 64, 64 x 32, 64 x 64)" in said
    run, session = vpeft.load(digits, device="cpu"), onnxruntime.InferenceSession(out)
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    for size in ((32, 32), (48, 40), (24, 80)):
        images = example_images(run, 3, seed=9, size=size)
        assert images.shape == (3, 3, *size)
        with torch.no_grad():
            want = class_scores(run.model, images)
        assert np.allclose(session.run(None, {"images": images.numpy()})[0], want.numpy(), atol=1e-4)


def test_a_program_of_one_size_is_not_kept_as_one_of_any(digits, tmp_path):
    # torch.export holds OpenMMLab's ViT, which asks whether its table has to be resized, to one size.
    with pytest.raises(
        UserError, match=r"takes one size of images as a program: leave --dynamic-size out\..*is kept\."
    ):
        export_run(digits, "pt2", tmp_path / "model.pt2", dynamic_size=True)
    with pytest.raises(UserError, match=r"--dynamic-size is of programs \(onnx, torchscript, pt2\), not of --to timm"):
        export_run(digits, "timm", tmp_path / "model.safetensors", dynamic_size=True)
    assert not list(tmp_path.iterdir())

    class OneSize(torch.nn.Module):
        def forward(self, images):
            if images.shape[-2:] != (32, 32):
                raise ValueError("wrong size")
            return images

    said = r"this network takes images of 32 x 32 alone, and none of 32 x 64 \(wrong size\): leave it out"
    with pytest.raises(UserError, match=said):
        programs._sizes(plain_model(vpeft.load(digits, device="cpu")), OneSize())


def test_what_does_not_merge_is_exported_as_it_is(tmp_path):
    file, _ = library_run(tmp_path, method="AdaptFormer", **TIMM)
    lines = export_run(file, "torchscript", tmp_path / "model.pt")
    assert "exported as it is (AdaptFormer cannot be merged" in lines[0]
    extra = {"vpeft.json": ""}
    program = torch.jit.load(tmp_path / "model.pt", _extra_files=extra)
    assert json.loads(json.loads(extra["vpeft.json"])["classes"]) == CLASSES
    run = vpeft.load(file, device="cpu")
    images = example_images(run, 3, seed=5)
    with torch.no_grad():
        assert torch.allclose(program(images), class_scores(run.model, images), atol=1e-5)
    with pytest.raises(UserError, match="--to timm holds a plain model: AdaptFormer cannot be merged"):
        export_run(file, "timm", tmp_path / "model.safetensors")


def test_timm_loads_its_own_model(tmp_path):
    timm = pytest.importorskip("timm")
    file, _ = library_run(tmp_path, **TIMM)
    out = tmp_path / "pets.safetensors"
    line = export_run(file, "timm", out)[-1].removeprefix("load it: ")
    model = eval(line, {"timm": timm}).eval()
    run = vpeft.load(file, device="cpu")
    images = example_images(run)
    with torch.no_grad():
        assert torch.allclose(model(images), class_scores(run.model, images), atol=1e-4)
    with safe_open(out, "pt") as opened:
        assert json.loads(opened.metadata()["classes"]) == CLASSES


def test_another_pooling_than_timms_is_refused(tmp_path):
    file, _ = library_run(tmp_path, **{**TIMM, "out": "mean"})
    with pytest.raises(UserError, match=r"timm's own model answers otherwise by .* its pooling or head is another"):
        export_run(file, "timm", tmp_path / "pets.safetensors")
    assert not (tmp_path / "pets.safetensors").exists()


def test_transformers_loads_its_own_model(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    file, _ = library_run(tmp_path, of="hf/dinov2", out="cls", **sizes)
    lines = export_run(file, "hf", tmp_path / "model")
    assert "transformers' own model differs by" in lines[1]
    model = eval(lines[-1].removeprefix("load it: "), {"transformers": transformers}).eval()
    assert model.config.id2label[2] == "owl"
    run = vpeft.load(file, device="cpu")
    images = example_images(run)
    head = load_file(tmp_path / "model/head.safetensors")
    with torch.no_grad():
        features = model(pixel_values=images).last_hidden_state[:, 0]
        found = features @ head["head.fc.weight"].T + head["head.fc.bias"]
        assert torch.allclose(found, class_scores(run.model, images), atol=1e-4)
    with pytest.raises(UserError, match="holds something already"):
        export_run(file, "hf", tmp_path / "model")


def test_peft_loads_the_adapter(tmp_path):
    peft = pytest.importorskip("peft")
    file, base = library_run(tmp_path, **TIMM)
    export_run(file, "peft", tmp_path / "peft")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    run = vpeft.load(file, device="cpu")
    images = example_images(run)
    head = load_file(tmp_path / "peft/head.safetensors")
    with torch.no_grad():
        features = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
        found = features @ head["head.fc.weight"].T + head["head.fc.bias"]
        assert torch.allclose(found, class_scores(run.model, images), atol=1e-4)
    assert json.loads((tmp_path / "peft/adapter_config.json").read_text())["base_model_name_or_path"] == TIMM["of"]


def test_openmmlab_loads_the_plain_model(digits, tmp_path):
    import mmpretrain

    lines = export_run(digits, "mmpretrain", tmp_path / "plain.pth")
    model = eval(lines[-1].removeprefix("load it: "), {"mmpretrain": mmpretrain}).eval()
    run = vpeft.load(digits, device="cpu")
    images = example_images(run)
    with torch.no_grad():
        assert torch.allclose(model(images, mode="tensor"), class_scores(run.model, images), atol=1e-4)
    assert not any("peft" in key for key in model.state_dict())
    again = vpeft.load(tmp_path / "plain.pth")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    one, two = again.predict(image)[0], run.predict(image)[0]
    assert torch.allclose(one.all_scores, two.all_scores, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "to", "name"),
    [
        ("boxes", "mmdet", "plain.pth"),
        ("maps", "mmseg", "plain.pth"),
        ("maps", "onnx", "model.onnx"),
        ("clips", "mmaction", "plain.pth"),
        ("clips", "pt2", "model.pt2"),
        ("classes", "pt2", "model.pt2"),
    ],
)
def test_other_families_are_exported(kind, to, name, tmp_path):
    import mmaction.apis
    import mmdet.apis
    import mmseg.apis

    folder = family_run(tmp_path, kind)
    lines = export_run(folder, to, tmp_path / name)
    if to in ("mmdet", "mmseg", "mmaction"):
        line = lines[-1].removeprefix("load it: ")
        model = eval(line, {"mmdet": mmdet, "mmseg": mmseg, "mmaction": mmaction})
        run = vpeft.load(tmp_path / name)
        state = run.model.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert run.classes
        if to != "mmaction":  # its function reads no names
            assert tuple(model.dataset_meta["classes"]) == run.classes
    else:
        assert "differs by" in lines[1]


@pytest.mark.parametrize(
    ("to", "name", "said"),
    [
        ("onnx", "model.pt", r"model\.pt: the name ends in \.onnx"),
        ("mmdet", "model.pth", "this run is of mmpretrain: take --to mmpretrain"),
        ("timm", "a.safetensors", "the backbone of this run is VisionTransformer of mmpretrain: take --to mmpretrain"),
        ("onx", "a", "--to onx: did you mean 'onnx'"),
    ],
)
def test_what_is_not_possible_is_said(to, name, said, digits, tmp_path):
    with pytest.raises(UserError, match=said):
        export_run(digits, to, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_program_of_another_size(digits, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    export_run(digits, "onnx", tmp_path / "model.onnx", size=(48, 40))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_inputs()[0].shape[-2:] == [48, 40]
    for options, said in (
        ({"to": "timm"}, r"--size is of programs \(onnx, torchscript, pt2\)"),
        ({"to": "onnx", "dynamic_size": True}, "--size and --dynamic-size exclude each other"),
        ({"to": "onnx", "size": (0, 32)}, "--size 0 32: a height and a width of 1 to 8192"),
    ):
        with pytest.raises(UserError, match=said):
            export_run(digits, out=tmp_path / "other.onnx", **{"size": (48, 40), **options})


def test_the_size_is_that_of_the_runs_reading(digits):
    assert input_size(vpeft.load(digits, device="cpu")) == (32, 32)
