"""The page of trivial cues: what it shows, and that it shows what was measured."""

import json
from pathlib import Path

from vpeft.apis.baselines.stored import FILE, read_baselines
from vpeft.apis.pages.trivial_cues import cues_page
from vpeft.core.datasets.tasks import SUITES

DOCS = Path(__file__).parents[3] / "docs"


def test_the_best_cue_stands_out_and_the_host_is_held_against_it(tmp_path):
    values = {"chance": 0.25, "raw pixels": 0.5, "random filters": 0.4}
    one = {"suite": "mini", "task": "tissue", "data_variant": "embedded", "values": values, "host": "nano_vit"}
    clips = {**one, "suite": "nano_vit_video", "task": "nano_vit_video", "values": {"frame differences": 0.7}}
    content = {"baselines": [{**one, "frozen_host": 0.625}, {**clips, "frozen_host": 0.6}, {**one, "task": "digits"}]}
    (tmp_path / FILE).write_text(json.dumps(content))
    page = cues_page(tmp_path)
    assert "| tissue | nano_vit | 25.0 | **50.0** | 40.0 | 62.5 | +12.5 |" in page
    assert "| digits | nano_vit | 25.0 | **50.0** | 40.0 |  |  |" in page
    assert page.index("## Mini-benchmark\n") < page.index("## Moving shapes\n")
    assert "| nano_vit_video | nano_vit | **70.0** | 60.0 | -10.0 |" in page


def test_the_page_is_up_to_date():
    assert cues_page(DOCS / "embedded") == (DOCS / "trivial_cues.md").read_text(), "run tools/methods_page.py"


def test_no_cue_is_above_the_frozen_host_on_the_second_version():
    found = [one for one in read_baselines(DOCS / "embedded") if one["suite"] == "mini_v2"]
    assert found
    assert {one["task"] for one in found} <= set(SUITES["mini_v2"])
    assert {one["task"] for one in found if one["frozen_host"] <= max(one["values"].values())} == set()
