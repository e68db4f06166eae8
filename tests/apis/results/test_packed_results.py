"""Results of many runs in one file."""

import json
import lzma

import pytest
from support.results import result, store

from vpeft import UserError
from vpeft.apis.commands.words.study import leaderboard, results
from vpeft.apis.results import packed
from vpeft.apis.results.files import read_results


@pytest.fixture
def folder(tmp_path):
    made = [
        result(method, task, seed, 0.5)
        for method in ("LoRA", "SSF")
        for task in ("digits", "photos")
        for seed in (0, 1)
    ]
    store(tmp_path / "board", *made)
    return tmp_path / "board"


def test_a_file_says_what_the_folder_says(folder, tmp_path, capsys):
    whole = read_results(folder)
    assert results.main([str(folder), "--pack", str(tmp_path / "kept" / "runs.jsonl.xz")]) == 0
    again = read_results(tmp_path / "kept" / "runs.jsonl.xz")
    assert [path.relative_to(tmp_path / "kept") for path in again.runs] == [
        path.relative_to(folder) for path in whole.runs
    ]
    assert list(again.runs.values()) == list(whole.runs.values())
    capsys.readouterr()
    results.main([str(folder)])
    table = capsys.readouterr().out
    results.main([str(tmp_path / "kept" / "runs.jsonl.xz")])
    assert capsys.readouterr().out == table


def test_the_same_results_give_the_same_bytes_and_a_part_can_be_packed(folder, tmp_path):
    files = [tmp_path / f"{name}.jsonl.xz" for name in ("a", "b", "c", "part")]
    results.main([str(folder), "--pack", str(files[0])])
    results.main([str(folder), "--pack", str(files[1])])
    results.main([str(files[0]), "--pack", str(files[2])])
    assert len({file.read_bytes() for file in files[:3]}) == 1
    results.main([str(folder), "--method", "SSF", "--pack", str(files[3])])
    assert {r["method"] for r in read_results(files[3]).runs.values()} == {"SSF"}


def test_the_page_of_a_file_has_no_links(folder, tmp_path):
    results.main([str(folder), "--pack", str(tmp_path / "runs.jsonl.xz")])
    leaderboard.main([str(tmp_path / "runs.jsonl.xz"), "--out", str(tmp_path / "page")])
    leaderboard.main([str(folder), "--out", str(tmp_path / "linked")])
    assert '"root":null' in (tmp_path / "page" / "index.html").read_text().replace(" ", "")
    assert '"root":"../board"' in (tmp_path / "linked" / "index.html").read_text().replace(" ", "")
    csvs = [(tmp_path / name / "runs.csv").read_text() for name in ("page", "linked")]
    assert csvs[0] == csvs[1]


def lines(*entries):
    return lzma.compress("".join(json.dumps(one) + "\n" for one in entries).encode())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"no xz at all", "was cut or damaged"),
        (lzma.compress(b"no JSON\n"), "is no file of results"),
        (lzma.compress(b"{}"), "something follows the last line"),
        (lines({"file": "runs/a.json"}), "is no file of results"),
        (lines({"file": 3, "result": {}}), "is no file of results"),
        (lines({"file": "../a.json", "result": {}}), "is no name below a folder"),
        (lines({"file": "/a.json", "result": {}}), "is no name below a folder"),
        (lines({"file": "runs/a.json", "result": {}}), "runs/a.json is no result of the benchmark"),
        (lines() + b"more", "something follows"),
        (lzma.compress(b"a", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**29}]), "emory"),
    ],
)
def test_what_is_no_whole_file_is_refused_in_a_line(content, message, tmp_path):
    file = tmp_path / "runs.jsonl.xz"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_results(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cut_or_changed_or_doubled_file_is_refused(folder, tmp_path, monkeypatch):
    file = tmp_path / "runs.jsonl.xz"
    results.main([str(folder), "--pack", str(file)])
    whole = file.read_bytes()
    for place in range(1, len(whole), 97):
        file.write_bytes(whole[:place])
        with pytest.raises(UserError, match="cut or damaged"):
            read_results(file)
    text = lzma.decompress(whole)
    file.write_bytes(lzma.compress(text.replace(b'"value": 0.5', b'"value": 0.9', 1)))
    with pytest.raises(UserError, match="was changed after it was written"):
        read_results(file)
    first = text.splitlines(keepends=True)[0]
    file.write_bytes(lzma.compress(text + first))
    with pytest.raises(UserError, match="twice"):
        read_results(file)
    file.write_bytes(whole)
    monkeypatch.setattr(packed, "LONGEST_LINE", 100)
    monkeypatch.setattr(packed, "PIECE", 200)
    with pytest.raises(UserError, match="too long"):
        read_results(file)


def test_another_name_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"NAME\.jsonl\.xz"):
        packed.write_packed(tmp_path / "runs.json", {})
    with pytest.raises(UserError, match="does not exist"):
        read_results(tmp_path / "nothing.jsonl.xz")


def test_one_thing_is_asked_for_at_a_time(folder, tmp_path):
    with pytest.raises(UserError, match="not allowed with"):
        results.main([str(folder), "--pack", str(tmp_path / "a.jsonl.xz"), "--plots", str(tmp_path)])


def test_parts_that_ran_apart_are_one_board(folder, tmp_path, capsys):
    whole_results = read_results(folder)
    old, new = tmp_path / "old.jsonl.xz", tmp_path / "new.jsonl.xz"
    results.main([str(folder), "--method", "LoRA", "--pack", str(old)])
    rest = tmp_path / "elsewhere"
    for path, run in whole_results.runs.items():
        if run["method"] != "LoRA":
            target = rest / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    capsys.readouterr()
    results.main([str(folder), "--pack", str(tmp_path / "whole.jsonl.xz")])
    results.main([str(old), str(rest), "--pack", str(new)])
    assert new.read_bytes() == (tmp_path / "whole.jsonl.xz").read_bytes()
    capsys.readouterr()
    results.main([str(folder)])
    whole = capsys.readouterr().out
    results.main([str(rest), str(old)])
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(whole.splitlines())
    with pytest.raises(UserError, match=r"elsewhere and .*new\.jsonl\.xz both hold runs/.*: a run counts once"):
        results.main([str(rest), str(new)])
