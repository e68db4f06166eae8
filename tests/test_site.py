"""The pages of docs/ as a site."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import vpeft
from vpeft import apis
from vpeft.registry import PEFT_METHODS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def entries(page):
    return re.findall(r"^::: (\S+)", (DOCS / "reference" / page).read_text(), re.M)


def test_the_reference_lists_every_public_name():
    listed = {name.removeprefix("vpeft.") for name in entries("vpeft.md")}
    assert listed == set(vpeft.__all__) >= set(apis.__all__)


def test_the_reference_lists_every_method():
    classes = PEFT_METHODS.module_dict.values()
    assert set(entries("methods.md")) >= {f"{one.__module__}.{one.__qualname__}" for one in classes}


def test_every_page_stands_in_the_navigation():
    pages = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert pages == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed: requirements/docs.txt")
def test_the_site_builds_strictly(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "vpeft.html").read_text()
    assert all(f'id="vpeft.{name}"' in page for name in vpeft.__all__)
    assert ":func:" not in page
    # Nothing of a page is fetched from elsewhere.
    loads = re.findall(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(http[^"]*)"', page)
    assert loads == []
