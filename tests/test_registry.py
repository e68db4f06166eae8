"""Registries and the hint for an unknown name."""

import ast
from functools import cache
from pathlib import Path

import pytest

import vpeft.registry
from vpeft.registry import DATASETS, HOOKS, HOSTS, MODELS, PEFT_METHODS, nearest

ROOT = Path(__file__).parents[1]
#: What needs an extra; configs import it by ``custom_imports``, and a search of settings by itself.
BY_HAND = (
    "vpeft.core.datasets.detection",
    "vpeft.core.datasets.segmentation",
    "vpeft.core.datasets.load.label_map",
    "vpeft.apis.tune.trial",
)


@pytest.mark.parametrize(
    ("asked", "found"),
    [("lora", "'LoRA'"), ("Lroa", "'LoRA'"), ("vpt_deep", "'VPTDeep'"), ("AdaptFrmer", "'AdaptFormer'")],
)
def test_nearest_method(asked, found):
    hint = nearest(asked, PEFT_METHODS.module_dict)
    assert hint.startswith(f"did you mean {found}? Known: {min(PEFT_METHODS.module_dict)}, ")


def test_nothing_near():
    assert nearest("zzz", ["b", "a"]) == "Known: a, b."


def test_children_of_mmengine():
    for registry in (MODELS, DATASETS, HOOKS):
        assert registry.scope == "vpeft"
        assert registry.parent.scope == "mmengine"
    assert MODELS.get("vpeft.PEFT") is MODELS.get("PEFT")
    assert {"mmpretrain.VisionTransformer", "timm.SwinTransformer"} <= set(HOSTS.module_dict)


def file_of(module):
    plain = ROOT.joinpath(*module.split("."))
    return next((f for f in (plain.with_suffix(".py"), plain / "__init__.py") if f.is_file()), None)


@cache
def imported_first(module):
    """What importing a module of this package imports of it at once, the packages around it included."""
    parts = module.split(".")
    found = {".".join(parts[:n]) for n in range(2, len(parts))}
    for node in ast.parse(file_of(module).read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "vpeft":
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {one for one in found if one != "vpeft" and file_of(one)}


def reached(locations):
    found, waiting = set(), list(locations)
    while waiting:
        if (module := waiting.pop()) not in found:
            found.add(module)
            waiting += imported_first(module)
    return found


def registering():
    """The name of every registry that a file registers something in, with the file's module."""
    for file in sorted((ROOT / "vpeft").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_call and node.func.attr == "register_module" and isinstance(node.func.value, ast.Name):
                module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                yield node.func.value.id, module


def test_a_registry_finds_all_that_is_registered_in_it_by_itself():
    """``import vpeft`` imports none of it: what no location leads to would be unknown to a config."""
    every = [(name, module) for name, module in registering() if module != "vpeft.registry"]
    assert len(every) > 150
    locations = {name: reached(getattr(vpeft.registry, name)._locations) for name in {name for name, _ in every}}
    lost = {module for name, module in every if module not in locations[name]}
    assert {module for module in lost if not module.startswith(BY_HAND)} == set()
