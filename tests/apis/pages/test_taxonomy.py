"""The survey's taxonomy and the columns of its table."""

from collections import Counter
from pathlib import Path

import pytest

from vpeft.apis.pages.properties import Properties, polynomial, properties
from vpeft.apis.pages.taxonomy import IN_LIST, SOURCES, read_taxonomy, taxonomy_page
from vpeft.core.contract.method import CATEGORIES
from vpeft.registry import PEFT_METHODS

ROOT = Path(__file__).parents[3]
#: The algorithms of the survey's benchmark.
BENCHMARK = (
    "Full Linear PfeifferAdapter AdaptFormer SCT BitFit UTuning VPTShallow VPTDeep PrefixTuning SSF LoRA NOAH FacT-TT "
    "RepAdapter Hydra LST DTL HST GPS LAST SNF BAPAT LNTune LoRand E3VA Mona"
)


def test_every_entry_says_where_it_is_or_why_not():
    entries = read_taxonomy()
    counts = Counter(one.category for one in entries if one.source == "list")
    assert counts == {
        **{"adapter": 24, "prompt": 24, "prefix": 5, "side": 7},
        **{"specification": 8, "reparameter": 11, "unified": 6},
    }
    assert sum(counts.values()) == IN_LIST
    assert {one.source for one in entries} == set(SOURCES)
    assert {one.category for one in entries} <= {*CATEGORIES, "multi-task"}
    for one in entries:
        assert one.methods() or one.why, one.entry
        assert one.here or one.why, one.entry
        assert one.code in ("yes", "no", ""), one.entry
        assert bool(one.paper) == (one.source == "list"), one.entry


def test_names_are_found_whatever_their_spelling():
    found = {one.entry: one.methods() for one in read_taxonomy()}
    assert found["VPT"] == ["VPTShallow", "VPTDeep"]
    assert found["FacT"] == ["FacT-TT", "FacT-TK"]
    assert found["DTL"] == ["DTL", "DTL+"]
    assert found["CoOp"] == []
    named = {name for names in found.values() for name in names}
    assert set(BENCHMARK.split()) - named == {"Full"}
    assert named <= set(PEFT_METHODS.module_dict)


def test_a_polynomial_is_read_off_and_proved():
    assert polynomial(lambda depth, width: 12 * depth * width**2 + 13 * depth * width + width // 2) == (
        "12 L D² + 13 L D + (1/2) D"
    )
    assert polynomial(lambda depth, width: depth * width - 3) == "L D - 3"
    assert polynomial(lambda depth, width: 0) == "0"
    with pytest.raises(ValueError, match="no polynomial"):
        polynomial(lambda depth, width: depth * width**3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Linear", (True, True, True, True, "0")),
        ("BitFit", (True, True, True, False, "11 L D + 2 D")),  # the patch embedding's and the last norm's 2 D
        ("LoRA", (False, True, True, False, "32 L D")),  # q and v, 2 x 2 x rank 8
        ("AdaptFormer", (False, False, False, False, "129 L D + 64 L")),
        ("VPTDeep", (False, True, False, False, "50 L D")),
        ("PrefixTuning", (False, True, False, False, "20 L D")),
        ("DTL", (False, False, False, True, "4 L D")),
        ("PartialK", (True, True, True, True, "12 D² + 13 D")),
        ("LoKr", (False, True, True, False, "")),  # its factors follow from D
    ],
)
def test_columns_follow_from_the_methods(name, expected):
    assert properties(name) == Properties(*expected)


@pytest.mark.slow
def test_the_page_of_the_taxonomy_is_up_to_date(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert taxonomy_page() == (ROOT / "docs" / "taxonomy.md").read_text(), "run tools/methods_page.py"
