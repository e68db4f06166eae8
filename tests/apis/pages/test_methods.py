"""The page of methods."""

import re
from pathlib import Path

import pytest

from vpeft.apis.pages.methods import COUNTED, agrees, count_on, methods_page
from vpeft.core.contract.build import build_method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

ROOT = Path(__file__).parents[3]


def test_counts_on_the_backbones():
    """The closed formulas at the hosts' widths, written out."""
    norms = [count_on(name, build_method("LNTune")) for name in COUNTED]
    assert norms[:3] == [38_400, 59_392, 89_088]
    partial = [count_on(name, build_method("PartialK")) for name in ("ViT-B/16", "Swin-B", "Swin-L")]
    assert partial == [12 * 768**2 + 13 * 768, 12 * 1024**2 + 13 * 1024 + 169 * 32, 12 * 1536**2 + 13 * 1536 + 169 * 48]
    lorand = [count_on(name, build_method("LoRand")) for name in ("Swin-B", "Swin-L")]
    assert lorand == [1_197_312, 2 * (49.5 * 18_048 + 24 * 2 * 64)]
    with pytest.raises(UserError, match="has stages"):
        count_on("Swin-L", build_method("LST"))


@pytest.mark.parametrize(
    ("count", "printed", "mark"),
    [(156_768, "0.16", " ="), (239_808, "0.22", ""), (1, "", ""), (3_107_328, "3.11", " =")],
)
def test_agreement_is_that_of_the_rounded_figure(count, printed, mark):
    assert agrees(count, printed) == mark


@pytest.mark.slow
def test_the_page_is_up_to_date(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert methods_page() == (ROOT / "docs" / "methods.md").read_text(), "run tools/methods_page.py"


def test_the_readme_names_every_method():
    """In its table, by the names that configs take."""
    text = (ROOT / "README.md").read_text().split("## Methods")[1].split("## Where things are")[0]
    named = set(re.findall(r"[A-Za-z][A-Za-z0-9+-]*", text))
    assert set(PEFT_METHODS.module_dict) <= named
    assert text.strip().startswith(f"{len(PEFT_METHODS.module_dict)} methods: ")
