"""Published tables."""

import pytest

from vpeft import UserError
from vpeft.apis.results.published.tables import PPT_EXCEPTIONS, VTAB_COLUMNS, published_table, recompute_ppt, source
from vpeft.core.datasets.tasks import SUITES


def test_published_ppt_follows_from_its_row():
    cells = recompute_ppt()
    off = {(c.table, c.row, c.column) for c in cells if abs(c.computed - c.printed) > 0.01}
    assert off == set(PPT_EXCEPTIONS)
    assert len(cells) == 73
    dtl = next(c for c in cells if c.row == "DTL")
    # 0.7458 exp(-log10(1.004))
    assert dtl.computed == pytest.approx(0.74451, abs=1e-4)


def test_published_means_follow_from_their_tasks():
    for row in published_table("vtab1k_vit_b16_in21k"):
        tasks = [float(v) for k, v in row.items() if VTAB_COLUMNS.get(k, k) in SUITES["vtab"]]
        assert len(tasks) == 19
        assert sum(tasks) / 19 == pytest.approx(float(row["mean_19"]), abs=0.006)


def test_unknown_table_and_sources():
    with pytest.raises(UserError, match="did you mean 'video_k400'"):
        published_table("video_k40")
    assert source("video_k400") == "arXiv 2402.02242v5"
    assert source("peft_vision_many_shot") == "arXiv 2409.16434v5"
