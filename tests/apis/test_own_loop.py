"""The page on loops of one's own: its blocks are run one after another."""

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support import own

import vpeft

PAGE = (Path(__file__).parents[2] / "docs/start/own_loop.md").read_text()
LOOP, OPENED, TRAINER, AGAIN, LIGHTNING = re.findall(r"```python\n(.*?)```", PAGE, re.S)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    own.class_folder(tmp_path / "photos", 6, ("blue", "red"))
    monkeypatch.chdir(tmp_path)


def run(block, names):
    exec(compile(block, "own_loop.md", "exec"), names)
    return names


def test_plain_pytorch(capsys):
    timm = pytest.importorskip("timm")
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), "vit_tiny.safetensors")
    names = run(LOOP, {})
    model = names["model"]
    assert {p.requires_grad for name, p in model.named_parameters() if ".peft." in name} == {True}
    own_keys = {n for n, p in model.named_parameters() if p.requires_grad and ".peft." not in n}
    assert own_keys == {"head.weight", "head.bias"}
    base = timm.create_model("vit_tiny_patch16_224", checkpoint_path="vit_tiny.safetensors").state_dict()
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters() if ".peft." not in n and "head" not in n)
    run(OPENED, names)
    rows = [line.rsplit(maxsplit=2) for line in capsys.readouterr().out.splitlines() if line.startswith("photos/")]
    assert len(rows) == 12
    with torch.no_grad():
        want = torch.cat([model(image[None]).softmax(1) for image, _ in names["data"]])
    assert [row[1] for row in rows] == [names["data"].classes[i] for i in want.argmax(1)]
    # Two libraries resize a little differently.
    assert [float(row[2]) for row in rows] == pytest.approx(want.amax(1).tolist(), abs=0.005)


def test_the_trainer_of_transformers():
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    network = transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=32, patch_size=8, num_labels=2, **sizes)
    )
    network.save_pretrained("vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("vit")
    names = run(TRAINER, {})
    trained, data = names["model"].eval(), names["data"]
    images = torch.stack([image for image, _ in data])
    with torch.no_grad():
        want = trained.cpu()(images).logits
        plain = network.eval()(images).logits
    assert (want - plain).abs().max() > 1e-3
    base = network.state_dict()
    frozen = {n: p for n, p in trained.named_parameters() if not p.requires_grad}
    assert len(frozen) > 20
    assert all(torch.equal(p, base[n]) for n, p in frozen.items())
    with safe_open("trainer.safetensors", "pt") as file:
        assert {key.rsplit(".", 1)[0] for key in file.keys() if ".peft." not in key} == {"classifier"}  # noqa: SIM118
    again = run(AGAIN, names)["model"]
    assert again is not trained
    with torch.no_grad():
        assert torch.equal(again(images).logits, want)


def test_lightning():
    pytest.importorskip("lightning")
    timm = pytest.importorskip("timm")
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), "vit_tiny.safetensors")
    names = run(LIGHTNING, {"__name__": "own_loop"})
    model, (images, _) = names["task"].model.cpu().eval(), next(iter(torch.utils.data.DataLoader(names["data"], 12)))
    again = vpeft.load_backbone("timm/vit_tiny_patch16_224", weights="vit_tiny.safetensors", num_classes=2)
    with torch.no_grad():
        start = again(images)
        want = model(images)
        assert (want - start).abs().max() > 0.1
        vpeft.load_adapter(again, "lightning.safetensors")
        assert torch.equal(again.eval()(images), want)
