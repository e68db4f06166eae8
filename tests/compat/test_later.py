"""What the packages of tasks leave until it is used, and that it is there then."""

import ast
import importlib
import math
import subprocess
import sys
import types
from pathlib import Path

import pytest

import vpeft  # noqa: F401  (mends)
from vpeft.compat.later import LATER, Later, _standing_for


def said_by(code):
    """The last line of what a process prints."""
    call = [sys.executable, "-c", f"import sys, vpeft\n{code}"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_importing_the_packages_of_tasks_imports_nothing_for_single_classes():
    """And what has waited is there when it is called; an import elsewhere gives the real module."""
    code = """
import mmdet.datasets, mmdet.evaluation, mmdet.models, mmdet.visualization, mmpretrain.models
import mmseg.datasets, mmseg.models, mmaction.datasets, mmaction.models
found = {name.partition(".")[0] for name in sys.modules}
print(*found & {"matplotlib", "sklearn", "scipy", "transformers", "peft", "pandas", "imgaug", "numba"}, "!")
from mmdet.models.task_modules.assigners.hungarian_assigner import linear_sum_assignment
rows, columns = linear_sum_assignment([[4, 1], [2, 8]])
assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])
from mmdet.utils.mot_error_visualize import mcolors, plt
assert mcolors.to_rgb("red") == (1.0, 0.0, 0.0)
plt.rcParams["figure.figsize"] = 3, 2
import matplotlib
assert matplotlib.rcParams["figure.figsize"] == [3, 2]
from mmdet.models.task_modules.tracking.interpolation import GPR, RBF
assert type(GPR(RBF(1.0, "fixed"))).__name__ == "GaussianProcessRegressor"
"""
    assert said_by(code) == "!"


def test_what_waits_is_imported_by_the_module_alone():
    module = types.ModuleType("one")
    exec("def now():\n    import colorsys, cmath as c\n    return colorsys, c", module.__dict__)
    code = "import math as m, cmath\nfrom math import sqrt as root\nimport no_such_package_at_all_"
    with pytest.raises(ModuleNotFoundError), _standing_for(["math", "no_such_package_at_all_"], module):
        exec(code, module.__dict__)
    assert isinstance(module.m, Later)
    assert isinstance(module.cmath, types.ModuleType)
    assert module.root(9) == module.m.sqrt(9) == 3
    assert module.now()[1] is module.cmath
    assert importlib.import_module("math") is math


def test_the_table_names_what_is_imported():
    """A line that concerns nothing any more goes."""
    for name, later in LATER.items():
        package, *rest = name.split(".")
        file = Path(importlib.util.find_spec(package).origin).parent.joinpath(*rest).with_suffix(".py")
        found = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            found |= {alias.name for alias in getattr(node, "names", ()) if isinstance(node, ast.Import)}
            if isinstance(node, ast.ImportFrom):
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        assert set(later) <= found, name


def test_the_layer_for_detectors_comes_with_mmdet():
    code = """
import mmpretrain.models
assert "mmdet" not in sys.modules and mmpretrain.models.utils.ResLayerExtraNorm is None
from mmdet.registry import MODELS
layer = MODELS.build(dict(type="ResLayerExtraNorm", depth=50, stage=3, norm_cfg=dict(type="BN")))
print(type(layer) is mmpretrain.models.utils.ResLayerExtraNorm)
"""
    assert said_by(code) == "True"


@pytest.mark.parametrize(
    "ask",
    [
        "from mmpretrain.models import BlipVQA as found",
        "from mmpretrain.models.multimodal.blip import BlipVQA as found",
        "from mmengine.registry import MODELS\nfound = MODELS.get('mmpretrain.BlipVQA')",
    ],
)
def test_models_of_images_and_text_are_there_when_they_are_asked_for(ask):
    code = f"""
import mmpretrain.models
assert "transformers" not in sys.modules
{ask}
import mmpretrain.models.multimodal.blip.blip_vqa
from mmpretrain.registry import MODELS
print(found is MODELS.get("BlipVQA") is mmpretrain.models.BlipVQA)
"""
    assert said_by(code) == "True"


def test_an_unknown_name_is_still_unknown():
    code = """
from mmpretrain.registry import MODELS, TOKENIZER
assert TOKENIZER.get("BlipTokenizer").__name__ == "from_pretrained"
try:
    MODELS.build(dict(type="NoSuchModel"))
except KeyError as error:
    print("NoSuchModel is not in the mmpretrain::model registry" in str(error))
"""
    assert said_by(code) == "True"


def test_a_visualizer_has_its_figure_when_it_draws():
    code = """
import numpy, copy
from mmpretrain.visualization import UniversalVisualizer
drawn = UniversalVisualizer()
copy.deepcopy(UniversalVisualizer("other"))
assert not hasattr(drawn, "no_such_name")
assert "matplotlib" not in sys.modules
drawn.set_image(numpy.full((6, 8, 3), 7, "uint8"))
image = drawn.get_image()
assert drawn.dpi == 100 and drawn.ax_save.figure is drawn.fig_save
print(image.shape, image.min(), image.max(), UniversalVisualizer("third", image=image).get_image().shape)
"""
    assert said_by(code) == "(6, 8, 3) 7 7 (6, 8, 3)"
