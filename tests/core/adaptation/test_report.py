"""Counts and PPT."""

import math

import pytest
import timm

import vpeft
from vpeft.core.adaptation.report import parameter_report, render
from vpeft.core.families.metrics import ppt
from vpeft.core.models.build import meta_build


@pytest.mark.parametrize(
    ("accuracy", "millions", "value"), [(71.44, 0.16, 0.71), (72.25, 0.29, 0.71), (74.58, 0.04, 0.744)]
)
def test_ppt_gives_the_published_figures(accuracy, millions, value):
    assert ppt(accuracy / 100, int(millions * 1e6)) == pytest.approx(value, abs=0.005)
    assert ppt(0.5, 10_000_000) == pytest.approx(0.5 * math.exp(-math.log10(2)))
    assert ppt(0.5, 0) == 0.5


def test_the_head_of_timm_is_counted_apart():
    with meta_build():
        model = timm.create_model("swin_base_patch4_window7_224", num_classes=7)
        vpeft.attach(model, "BitFit")
    report = parameter_report(model)
    assert report.head == 7 * 1025
    assert report.total == report.trainable_without_head + report.head
    assert report.rel_pos_tables == 169 * (2 * 4 + 2 * 8 + 18 * 16 + 2 * 32)
    assert report.trainable_without_head + report.frozen + report.head == sum(p.numel() for p in model.parameters())


def test_the_text_names_sites_and_counts():
    with meta_build():
        model = timm.create_model("vit_base_patch16_224", num_classes=10)
        vpeft.attach(model, [{"type": "LoRA", "rank": 8}, "BitFit"])
    text = render(parameter_report(model))
    assert "qkv" in text
    assert "294,912" in text
    assert "83,712" in text
    assert "trainable without head 397,824" in text
