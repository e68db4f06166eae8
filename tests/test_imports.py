"""What ``import vpeft`` and its first uses import, and what they leave until it is used."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vpeft

ROOT = Path(__file__).parents[1]
#: Packages that single methods, hosts, tasks, tools and files need.
OTHERS = {
    "mmpretrain",
    "mmcv",
    "mmdet",
    "mmseg",
    "mmaction",
    "timm",
    "torchvision",
    "transformers",
    "peft",
    "open_clip",
    "huggingface_hub",
    "matplotlib",
    "sklearn",
    "skimage",
    "scipy",
    "pandas",
    "cv2",
    "jsonschema",
    "optuna",
    "ray",
    "onnx",
    "decord",
    "av",
}
#: What belongs to a run; with any of these come the distributed parts of torch, which take longer than torch itself.
OF_A_RUN = {"mmengine.runner", "mmengine.model", "mmengine.optim", "mmengine.hooks", "mmengine.infer"}


def imported_by(code):
    """The names of the modules that a process has imported behind some code."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_imports_no_other_package():
    found = imported_by("import vpeft")
    assert {name.partition(".")[0] for name in found} & {*OTHERS, "torch", "mmengine", "numpy", "rich"} == set()
    assert not [name for name in found if name.startswith("vpeft.") and name.split(".")[1] not in ("compat", "errors")]


@pytest.mark.parametrize(
    "code",
    [
        "import vpeft\nvpeft.attach",
        "from vpeft.apis.catalogue import catalogue\nassert len(catalogue('methods')) > 30",
        "from vpeft.apis.catalogue import catalogue\nassert len(catalogue('hosts')) > 30",
    ],
    ids=["attach", "methods", "hosts"],
)
def test_the_first_use_imports_what_it_needs_alone(code):
    found = imported_by(code)
    assert {name.partition(".")[0] for name in found} & OTHERS == set()
    assert found & OF_A_RUN == set()
    assert "torch" in found


def test_a_run_imports_what_it_uses_alone(tmp_path):
    """A classification run on embedded data, up to its first step."""
    found = imported_by(
        f"""
from vpeft.apis.commands.words.run.train import main
from vpeft.compat.waiting import after_import

class Begins(Exception):
    pass

def begin(*args):
    raise Begins

after_import("mmengine.runner.loops", lambda loops: setattr(loops.EpochBasedTrainLoop, "run_iter", begin))
try:
    main(["configs/mini/lora_nano_vit.py", "--work-dir", {str(tmp_path)!r}])
except Begins:
    pass
"""
    )
    packages = {name.partition(".")[0] for name in found}
    others = {
        "mmdet",
        "mmseg",
        "mmaction",
        "matplotlib",
        "sklearn",
        "scipy",
        "transformers",
        "peft",
        "skimage",
        "pandas",
    }
    assert packages & others == set()
    assert {"mmpretrain", "mmengine.runner"} <= found


def test_every_public_name_is_there():
    assert set(vpeft.__all__) <= set(dir(vpeft))
    for name in vpeft.__all__:
        assert getattr(vpeft, name).__name__ == name
    for room in ("algorithms", "apis", "core", "extension", "files", "registry"):
        assert getattr(vpeft, room) is importlib.import_module(f"vpeft.{room}")
    with pytest.raises(AttributeError, match="module 'vpeft' has no attribute 'atach'"):
        vpeft.atach  # noqa: B018


def test_mmengine_knows_the_package_once_it_is_imported_itself():
    """In the other order too: what the Runner asks for by name, and the scheme of the shipped weights."""
    check = (
        "from mmengine.registry import FUNCTIONS, MODELS, HOOKS\n"
        "assert FUNCTIONS.get('vpeft_keep_seed') is not None and MODELS.children['vpeft'] is not None\n"
        "from mmengine.runner.checkpoint import CheckpointLoader\n"
        "state = CheckpointLoader.load_checkpoint('vpeft://nano_vit', 'cpu', logger='silent')\n"
        "assert len(state['state_dict']) > 50\n"
        "assert HOOKS.get('vpeft.PEFTHook').__name__ == 'PEFTHook'"
    )
    assert "mmengine.runner" in imported_by(f"import vpeft\n{check}")
    assert "mmengine.runner" in imported_by(f"import mmengine.runner\nimport vpeft\n{check}")


def test_a_package_that_is_missing_is_named_where_a_name_is_used():
    code = "import sys\nsys.modules['torch'] = None\nimport vpeft\nvpeft.attach"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: vpeft cannot be imported (import of torch halted")
    caught = code.replace("vpeft.attach", "try:\n    vpeft.attach\nexcept ImportError:\n    1 / 0")
    done = subprocess.run([sys.executable, "-c", caught], env=env, capture_output=True, text=True, timeout=120)
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "vpeft cannot be imported" not in done.stderr.splitlines()[-1]
