"""Names of configs, read from the text of files."""

from pathlib import Path

import pytest

from vpeft.apis.config.listing import FIELDS, _stated, config_files, config_names, stated_fields
from vpeft.errors import UserError
from vpeft.files import read_config

ROOT = Path(__file__).parents[3]
#: Recipes and tables, and one of each kind alone where the test is to be quick.
SHIPPED = sorted((ROOT / "configs").rglob("_base_/*.py")) + sorted((ROOT / "configs/_base_/methods").glob("*.py"))
QUICK = ("video_swin.py", "mini.py", "nano_vit.py", "clip-vit-b.py", "dinov3-b_coco.py")


def as_mmengine_reads(file):
    cfg = read_config(file, imports=False)
    return {name: list(cfg[name]) if isinstance(cfg[name], dict) else cfg[name] for name in FIELDS if name in cfg}


@pytest.mark.parametrize(
    "file",
    [pytest.param(f, id=f.name, marks=[] if f.name in QUICK else [pytest.mark.slow]) for f in SHIPPED],
)
def test_what_is_shipped_is_read_as_mmengine_reads_it(file, monkeypatch):
    wanted = as_mmengine_reads(file)
    monkeypatch.setattr("vpeft.apis.config.listing.read_config", None)  # from the text alone
    _stated.cache_clear()
    found = stated_fields(file)
    assert {name: set(value) if isinstance(value, list) else value for name, value in found.items()} == {
        name: set(value) if isinstance(value, list) else value for name, value in wanted.items()
    }
    assert wanted


BELOW = 'methods_table = "small"\nwithout = dict(mona="no map")\nrows = dict(a=(1, 2), b=(3, 4))\n'


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        ('without = dict(lora="x")', True),
        ('without = dict(_delete_=True, lora="x")', True),
        ('without = {"lora": "x", "mona": "y"}', True),
        ("without = None", True),
        ('methods_table = "large"', True),
        ("__rows = dict(a=(1, 2), b=(3, 4))\ndata_sets = {n: {'task': x} for n, (x, y) in __rows.items()}", True),
        ('def __why(x):\n    return f"{x}"\nwithout = dict(lora=__why("x"))', True),
        ("data_sets = {n: {'task': c} for n, c in (('a', 3), ('b', 4))}", False),
        (
            "__rows = dict(a=(1, 2), b=(3, 4))\ndata_sets = {n: {'task': x} for n, (x, y) in __rows.items() if x > 1}",
            False,
        ),
        ("__more = dict(lora='x')\nwithout = dict(**__more)", False),
        ("without = {**_base_.without, 'lora': 'x'}", False),
        ("without = dict(lora='x')\nfor name in ('dora',):\n    without[name] = 'y'", False),
        ("methods_table = _base_.methods_table + '_swin'", False),
    ],
)
def test_fields_of_a_text(tmp_path, monkeypatch, text, is_plain):
    (tmp_path / "below.py").write_text(BELOW)
    file = tmp_path / "own.py"
    file.write_text(f'_base_ = ["below.py"]\n{text}\n')
    ran = []
    monkeypatch.setattr(
        "vpeft.apis.config.listing.read_config", lambda *args, **options: ran.append(1) or read_config(*args, **options)
    )
    assert stated_fields(file) == as_mmengine_reads(file)
    assert ran == ([] if is_plain else [1])


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "pets/_base_").mkdir(parents=True)
    file = tmp_path / "pets/_base_/vit.py"
    file.write_text('_base_ = ["nowhere.py"]\nmethods_table = "small"\n')
    with pytest.raises(UserError, match=r"vit\.py cannot be read"):
        config_names(tmp_path)
    file.write_text('methods_table = "smal"\n')
    (tmp_path / "_base_/methods").mkdir(parents=True)
    (tmp_path / "_base_/methods/small.py").write_text("methods = dict(lora=dict(type='LoRA'))\n")
    with pytest.raises(UserError, match=r"vit\.py: no methods_table 'smal': did you mean 'small'"):
        config_names(tmp_path)
    file.write_text('methods_table = "small"\n')
    assert config_names(tmp_path) == [str(tmp_path / "pets/lora_vit.py")]
    assert config_files(tmp_path) == []
