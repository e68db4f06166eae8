"""The page that compares vpeft with HuggingFace's peft: its commands and its lines are run, on the same folders."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import own
from support.user import ENV, asked, server, vpeft

pytest.importorskip("peft")
timm = pytest.importorskip("timm")
pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[3] / "docs/comparison.md").read_text()
COMMANDS = re.search(r"```bash\n(.*?)```", PAGE, re.S)[1].splitlines()
TRAIN, USE = re.findall(r"```python\n(.*?)```", PAGE, re.S)
NAMES = {"photos": ("blue", "red"), "weather": ("cold", "warm")}
#: torchvision's own library may not load beside a torch without CUDA; vpeft mends that.
START = "import sys, runpy, vpeft.compat; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def theirs(folder, script, *words, status=0):
    call = [sys.executable, "-c", START, script, *words]
    done = subprocess.run(call, cwd=folder, env=ENV, capture_output=True, text=True, timeout=600)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("home")
    for name, labels in NAMES.items():
        own.class_folder(folder / name, 5, ("blue", "red"), start=50 * (name == "weather"))
        for colour, label in zip(("blue", "red"), labels, strict=True):
            (folder / name / colour).rename(folder / name / label)
    for number, colour in enumerate(("blue", "red")):
        own.save(folder / "new" / f"{number}.png", own.picture(90, colour)[0])
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), folder / "vit_tiny.safetensors")
    (folder / "train.py").write_text(TRAIN)
    (folder / "use.py").write_text(USE)
    return folder


def test_four_commands_and_no_config(home):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("fastapi")
    train, predict, export, serve = (shlex.split(line)[1:] for line in COMMANDS)
    assert (train[0], predict[0], export[0], serve[0]) == ("train", "predict", "export", "serve")
    vpeft(home, *train)
    vpeft(home, "train", "weather", *train[2:])
    rows = vpeft(home, *predict)[0].splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["new/0.png", "new/1.png"]
    assert {row.split()[1] for row in rows[1:]} <= set(NAMES["photos"])
    assert "onnxruntime differs by" in vpeft(home, *export)[0]
    files = sorted((home / "new").iterdir())
    with server(home, *serve[1:]) as address:
        for name, labels in NAMES.items():
            assert set(asked(address, f"{name}_lora_vit_tiny_patch16_224", *files)) <= set(labels)


def test_the_lines_of_timm_and_peft(home):
    lines = [line for line in (TRAIN + USE).splitlines() if line]
    assert f"| {len(COMMANDS)} commands, no config | {len(lines)} lines of Python |" in PAGE
    for name in NAMES:
        theirs(home, "train.py", name)
    out, _ = theirs(home, "use.py")
    answers = [line.split() for line in out.splitlines() if line.startswith(tuple(NAMES))]
    assert [one[:2] for one in answers] == [[name, f"new/{number}.png"] for name in NAMES for number in (0, 1)]
    assert all(one[2] in NAMES[one[0]] for one in answers)
    assert (home / "photos.onnx").is_file()


def test_what_is_said_of_broken_and_deep_images(home):
    own.mixed_folder(home / "mixed")
    shutil.rmtree(home / "mixed/blue")
    _, error = theirs(home, "train.py", "mixed", status=1)
    assert error.splitlines()[-1] == "OSError: Truncated File Read"
    deep = Image.open(home / "mixed/red/photo 5.png")
    assert len(np.unique(np.asarray(deep))) > 50
    assert np.unique(np.asarray(deep.convert("RGB"))).tolist() == [255]


def test_what_is_said_of_other_numbers_of_classes(tmp_path):
    import peft

    def network(classes):
        return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=classes)

    lora = peft.LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"])
    peft.get_peft_model(network(3), lora).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        peft.PeftModel.from_pretrained(network(2), tmp_path)
