"""The command over all benchmarks: what it runs, keeps, shows and estimates; no time is asserted."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vpeft.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def command():
    """The script as a module."""
    sys.path.insert(0, str(ROOT))
    try:
        yield importlib.import_module("benchmarks.all")
    finally:
        sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def table(command):
    return importlib.import_module("benchmarks.common.vtab_table")


def test_the_arithmetic_of_the_table(table):
    found = table.table_seconds(
        {"LoRA": 500.0, "Full": 250.0}, 1000.0, 10.0, {"a": 2000, "b": 3000}, ["LoRA", "Full", "Mona"], seeds=3
    )
    # 100 epochs of 1,000 images: 200 s and 400 s, on two tasks with three seeds; 5,000 test images at 1,000 a second.
    assert found == {
        "seconds": 3600 + 30 + 120,
        "training": 3600,
        "testing": 30,
        "starting": 120,
        "runs": 12,
        "lacking": ["Mona"],
    }


def test_the_table_has_27_methods_and_19_tasks(table):
    assert len(table.table_methods()) == 27
    assert len(table.test_images()) == 19
    assert table.test_images()["cifar"] == 10_000


def test_each_batch_size_is_estimated(table):
    rows = [
        {"what": f"{name}, batch {batch}", "value": batch * 10.0, "batch": batch}
        for batch in (64, 256)
        for name in ("forward", "floor", "LoRA")
    ]
    starts = [{"what": "vpeft train, digits", "value": 1.0, "seconds": 4.0}]
    small, large = table.table_figures({"throughput": {"figures": rows}, "start_up": {"figures": starts}})
    assert (small["batch"], large["batch"], small["runs"], small["starting"]) == (64, 256, 19, 76)
    assert small["training"] == 19 * 100_000 / 640
    assert len(small["lacking"]) == 26
    assert table.table_figures({}) == []


def answers(command, monkeypatch, found):
    """Parts answer without a process; the list tells which were asked."""
    asked = []

    def answer(part, argv, folder, expected):
        asked.append(part.name)
        return found.get(part.name, {"figures": [{"what": "time", "value": 1.25, "unit": "x", "q1": 1.0, "q3": 1.5}]})

    monkeypatch.setattr(command, "in_own_process", answer)
    return asked


def test_it_goes_on_where_it_was(command, monkeypatch, tmp_path, capsys):
    found = {"cache": {"failed": "it broke"}, "serving": {"not_run": "peft is not installed (pip install peft)"}}
    asked = answers(command, monkeypatch, found)
    argv = ["--quick", "--out", str(tmp_path)]
    assert command.main(argv) == 1
    assert asked == list(command.PARTS)
    page = (tmp_path / "page.md").read_text()
    assert "failed: it broke" in page
    assert "not run: peft is not installed (pip install peft)" in page
    assert "| time | 1.250 x | 1.000 - 1.500 |" in page
    assert f"[{len(asked)}/{len(asked)}]" in capsys.readouterr().err
    found.clear()
    asked.clear()
    assert command.main(argv) == 0
    assert asked == ["cache", "serving"]
    assert "failed" not in (tmp_path / "page.md").read_text()
    asked.clear()
    assert command.main([*argv, "--rounds", "7", "--parts", "step"]) == 0
    assert command.main([*argv, "--rounds", "7", "--parts", "step", "--again"]) == 0
    assert asked == ["step", "step"]
    assert json.loads((tmp_path / "page.json").read_text())["settings"]["rounds"] == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--parts", "stepp"], "'stepp': did you mean 'step'?"),
        (["--device", "tpu"], "--device tpu: cpu or cuda."),
    ],
)
def test_wrong_use_is_one_line(command, words, said, capsys, tmp_path):
    assert command.main(["--quick", "--out", str(tmp_path), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_part_tells_what_is_missing(command):
    parts = sys.modules["benchmarks.common.parts"]
    lacks = parts.Part("x", "x", lambda settings: [], {"quick": 1}, ["no_such_module"])
    assert command.run_one(lacks, parts.Settings())["not_run"].startswith("no_such_module is not installed")

    def refuses(settings):
        raise UserError("not here")

    def breaks(settings):
        raise ValueError("odd")

    assert command.run_one(parts.Part("x", "x", refuses, {}), parts.Settings()) == {"failed": "not here"}
    assert command.run_one(parts.Part("x", "x", breaks, {}), parts.Settings()) == {"failed": "ValueError: odd"}


def test_what_a_gpu_is_given_takes_under_eight_minutes(command):
    parts = sys.modules["benchmarks.common.parts"]
    chosen = command.chosen_parts(parts.Settings("full", "cuda"), None)
    assert {"throughput", "pairs", "forward"} <= {part.name for part in chosen}
    assert sum(part.seconds["cuda"] for part in chosen) < 8 * 60


@pytest.mark.slow
def test_the_quick_page_has_figures_in_every_part(command, tmp_path):
    has_compiler = any(map(shutil.which, ("g++", "c++", "clang++")))  # which a compiled step on a CPU needs
    parts = [name for name in command.PARTS if has_compiler or name != "compiled"]
    call = [sys.executable, "benchmarks/all.py", "--quick", "--rounds", "1", "--methods", "LoRA"]
    done = subprocess.run(
        [*call, "--out", str(tmp_path), "--parts", *parts],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = json.loads((tmp_path / "page.json").read_text())
    for part in page["parts"]:
        assert part.get("figures"), part
        assert all(row["value"] >= 0 for row in part["figures"] if "value" in row), part
    assert [row["batch"] for row in page["table"]] == [2, 4]
    assert "not run" not in (tmp_path / "page.md").read_text()
