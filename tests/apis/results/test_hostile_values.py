"""What stands in result files is shown as text: no tag, column, formula, escape sequence or script comes of it, and no
bad file stops a page."""

import csv
import io
import json
import os
import re
from html.parser import HTMLParser

import pytest
from support.results import result, store

from vpeft.apis.leaderboard.write import write_leaderboard
from vpeft.apis.results.files import RUNS, checksum, read_results
from vpeft.apis.results.plots import draw_all
from vpeft.apis.results.shown import csv_cell, markdown_code, markdown_text
from vpeft.apis.results.tables import as_list, cell_runs, comparison, markdown, with_costs
from vpeft.extension.drawing.script_data import script_json

NAMES = {
    "tag": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "end of script": "</script><!--<script>",
    "column": "a | b || c",
    "lines": "a\n\n# b\r\n- c",
    "code": "`rm` ```x```",
    "link": "[x](javascript:alert(1)) ![y](http://z)",
    "formula": "=HYPERLINK(0)",
    "command": "@SUM(1)",
    "plus": "+1+cmd|' /C calc'!A0",
    "minus": "-2+3",
    "tab": "\t=1+1",
    "colour": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "link of terminals": "\x1b]8;;http://evil\x1b\\here",
    "turn": "abc\u202edef",
    "dollar": r"$\frac{1}$ $x^",
    "prototype": "__proto__",
    "constructor": "constructor",
    "underscore": "_hidden",
    "folder": "../../etc/passwd",
    "address": "javascript:alert(1)",
    "backslash": "a\\| b",
    "long": "x" * 300,
    "entity": "&lt;b&gt; &#10;",
}


class Page(HTMLParser):
    """Tags of a page with their attributes, and the texts of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.inside = [], [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def columns(line):
    return len(re.findall(r"(?<!\\)(?:\\\\)*\|", line))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The page's tags where every name is harmless."""
    root = tmp_path_factory.mktemp("plain")
    store(root, *(result("LoRA", "digits", seed, 0.5) for seed in range(2)))
    return Page(write_leaderboard(read_results(root), published=[])[0].read_text()).tags


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names(name, tmp_path, plain):
    fields = {"suite": None, "group": None, "backbone": name, "host": name, "config": "c.py", "data_variant": name}
    metric = {"name": name, "value": 0.5}
    ok = [
        {**result(name, "digits", seed, 0.5, variant={"a": name}), **fields, "task": task, "main_metric": metric}
        for task in (name, "digits")
        for seed in range(2)
    ]
    failed = {**result("SSF", "digits", 0, 0.5), **fields, "task": "t", "status": "failed", "error": f"x\n{name}"}
    for i, one in enumerate((*ok, failed)):
        (path,) = store(tmp_path, {**one, "task": "t"})
        content = json.loads(path.read_text())
        content["task"] = one["task"]
        content["checksum"] = checksum(content)
        path.unlink()
        (path.parent / f"{i}.json").write_text(json.dumps(content))
    results = read_results(tmp_path)
    assert (len(results.runs), results.broken) == (5, [])

    for text in (markdown(results), with_costs(results)):
        assert "<" not in text
        assert "](" not in text
        assert not re.search(r"(?<!\\)`", text)
        assert not [c for c in text if ord(c) < 32 and c != "\n"]
    for board in markdown(results).split("\n\n"):
        table = [line for line in board.splitlines() if line.startswith("|")]
        assert len({columns(line) for line in table}) <= 1

    for text in (as_list(results), cell_runs(results, name, name)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "\x1b" not in comparison(results, False, name, name)

    files = write_leaderboard(results, published=[])
    assert len({file.name for file in files}) == 7  # two boards, though their names may look alike
    assert {file.parent for file in files} == {tmp_path / "leaderboard"}
    page = Page(files[0].read_text())
    assert page.tags == plain
    data = json.loads(page.scripts[1])
    assert name in {board["entries"][0]["backbone"] for board in data["boards"]}
    assert "<" not in page.scripts[1]
    for file in files[2:]:
        for row in csv.reader(io.StringIO(file.read_text())):
            for cell in row:
                assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or re.fullmatch(
                    r"[+-]?[\d.]+(e-?\d+)?", cell
                )
    assert all(
        path.stat().st_size > 0 for path in draw_all(results.where(lambda r: r["task"] == name), tmp_path / "plots")
    )


def sealed(root, name, change=None, raw=None):
    """A result file with a right checksum over what was changed."""
    (path,) = store(root, result("LoRA", "tissue", 9, 0.5))
    content = json.loads(path.read_text())
    path.unlink()
    if change is not None:
        change(content)
        content["checksum"] = checksum(content)
    path = root / RUNS / name
    path.write_bytes(json.dumps(content).encode() if raw is None else raw)
    return path


def put(*keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


CHANGES = {
    "nan": put("main_metric", "value", value=float("nan")),
    "infinity": put("cost", "step_seconds", value=float("inf")),
    "a huge whole number": put("parameters", "head", value=10**400),
    "text for a number": put("cost", "inference_ratio", value="fast"),
    "list for shots": put("variant", "shots", value=[5]),
    "text for shots": put("variant", "shots", value="5"),
    "text for trials": put("tuning", value={"trials": "many"}),
    "number for a name": put("method", value=3),
    "an endless name": put("task", value="x" * 301),
    "true for a seed": put("seed", value="0"),
    "half a sign": put("host", value="\ud800"),
    "list for a version": put("git", value=["a"]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_bad_value_is_left_out_and_named(change, tmp_path):
    store(tmp_path, result("LoRA", "digits", 0, 0.5))
    path = sealed(tmp_path, "bad.json", change)
    leaves_out(tmp_path, path)


RAW = {
    "nothing": b"",
    "half": b'{"format": 1',
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 100_000,
    "deep but closed": b"[" * 900 + b"]" * 900,
    "1e999": b'{"format": 1e999}',
    "twice": b'{"format": 1}{"format": 1}',
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_a_broken_file_is_left_out_and_named(raw, tmp_path):
    store(tmp_path, result("LoRA", "digits", 0, 0.5))
    leaves_out(tmp_path, sealed(tmp_path, "bad.json", raw=raw))


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing", "too large", "name that is no text"])
def test_what_is_no_file_is_left_out_and_named(kind, tmp_path, monkeypatch):
    store(tmp_path, result("LoRA", "digits", 0, 0.5))
    path = tmp_path / RUNS / "bad.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to nothing":
        path.symlink_to(tmp_path / "nothing")
    elif kind == "too large":
        path.touch()
        os.truncate(path, 2**40)
    else:
        path = tmp_path / RUNS / os.fsdecode(b"bad\xff.json")
        path.write_text("{")
    leaves_out(tmp_path, path)


def leaves_out(root, path):
    results = read_results(root)
    assert [r["task"] for r in results.runs.values()] == ["digits"]
    (fault,) = results.broken
    assert str(path) in fault
    assert "bad" in markdown(results)
    files = write_leaderboard(results, published=[])
    assert "bad" in files[1].read_text()
    (named,) = json.loads(Page(files[0].read_text()).scripts[1])["broken"]
    assert "bad" in named


def test_markdown():
    assert markdown_text("a|b`c`<d>&\\") == "a\\|b\\`c\\`&lt;d>&amp;\\\\"
    assert markdown_text("[a](b)") == "[a]\\(b)"
    assert markdown_code("a") == "`a`"
    assert markdown_code("a``b`") == "``` a``b` ```"


@pytest.mark.parametrize("value", [1, -0.5, None, True, "-1", "+1.5e3", "LoRA", "", "a=b", "1-2"])
def test_cells_that_stay(value):
    assert csv_cell(value) == value


@pytest.mark.parametrize("value", ["=1", "+a", "-a", "@a", "\t=1", " =1", "\n=1", "\uff1d1", "-1+1", "-1|cmd"])
def test_cells_that_are_quoted(value):
    assert csv_cell(value)[0] == "'"


def test_data_in_a_script():
    text = script_json({"a": "</script><!--\u2028"})
    assert not set(text) & {"<", ">", "\u2028"}
    assert json.loads(text) == {"a": "</script><!--\u2028"}
    with pytest.raises(ValueError, match="JSON"):
        script_json(float("nan"))
