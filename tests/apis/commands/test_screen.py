"""The screen of a run: what is trained, on what, for how long; all else stands in the log file."""

import io
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from rich.console import Console

from vpeft.apis.commands import screen
from vpeft.apis.commands.words.run import merge, test, train
from vpeft.apis.run.runner import RUNNER

ROOT = Path(__file__).parents[3]
SHORT = [
    "train_cfg.max_epochs=2",
    "param_scheduler.0.end=1",
    "param_scheduler.1.begin=1",
    "param_scheduler.1.end=2",
    "train_cfg.val_interval=1",
    "train_split=train800",
    "train_dataloader.batch_size=200",
]


@pytest.fixture(scope="module")
def words():
    config = str(ROOT / "configs/mini/nano_vit.py")
    return [config, "--method", "lora", "--task", "digits"]


@pytest.fixture(scope="module")
def shown(words, tmp_path_factory):
    """What stands on the screen after a training, and its folder."""
    folder, console = tmp_path_factory.mktemp("screen") / "run", Console(file=io.StringIO(), highlight=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screen, "CONSOLE", console)
        patch.setattr(screen, "FIRST", 0.0)
        train.main([*words, "--work-dir", str(folder), "--cfg-options", *SHORT])
    return console.file.getvalue(), folder


def test_the_first_screen(shown):
    text, folder = shown
    lines = text.splitlines()
    assert len(lines) < 20
    assert "\x1b" not in text
    assert lines[0] == "trained    LoRA on mmpretrain.VisionTransformer: 12,938 of 326,474 parameters (3.96 %)"
    assert lines[1].split() == ["lora", "12,288,", "head", "650"]
    assert lines[2] == "base       vpeft://nano_vit"
    assert lines[3] == "data       digits: 800 of training, 200 of validation, 10 classes"
    assert lines[4] == f"folder     {folder}"
    assert re.fullmatch(r"training   1/8  0:\d\d:\d\d left  loss \d\.\d{3}", lines[6])
    # The training of the last epoch, then its validation, and nothing twice.
    assert re.fullmatch(r"training   8/8  0:00:00 left  loss \d\.\d{3}  top1 .* % \(best .* %\)", lines[-2])
    assert re.fullmatch(r"validated  iteration 8: top1 .* % \(best .* %\)", lines[-1])
    assert len([line for line in lines if line.startswith("training   8/8")]) == 1


def test_validation_and_the_best_so_far(shown):
    found = re.findall(r"^validated  iteration (\d): top1 ([\d.]+) % \(best ([\d.]+) %\)$", shown[0], re.MULTILINE)
    assert [int(iteration) for iteration, _, _ in found] == [4, 8]
    best = [float(value) for _, _, value in found]
    assert best == [max(float(value) for _, value, _ in found[: i + 1]) for i in range(2)]


def test_the_dumps_stand_in_the_log_file(shown):
    text, folder = shown
    (log,) = folder.glob("*/*.log")
    whole = log.read_text()
    for part in ("System environment", "Hooks will be executed", "Config:", "adapter written"):
        assert part in whole
        assert part not in text
    assert str(log) in text


def test_after_it_runners_are_mmengines_again(shown):
    assert RUNNER.get() is Runner
    assert screen._LIVING == []


def test_a_test_and_a_merge(words, shown, tmp_path, monkeypatch, capsys):
    console = Console(file=io.StringIO(), highlight=False)
    monkeypatch.setattr(screen, "CONSOLE", console)
    adapter = str(shown[1] / "adapter.safetensors")
    config, *flags = words
    test.main([config, adapter, *flags, "--work-dir", str(tmp_path / "test")])
    lines = console.file.getvalue().splitlines()
    assert lines[0].startswith("tested     LoRA on mmpretrain.VisionTransformer: 12,938 of")
    assert lines[2].startswith("data       digits: 797 of test")
    assert lines[-1].startswith("testing    4/4  0:00:00 left")
    assert json.loads((tmp_path / "test/result.json").read_text())["main_metric"]["name"] == "accuracy/top1"
    assert "accuracy/top1" in capsys.readouterr().out
    merge.main([config, adapter, str(tmp_path / "plain.pth"), *flags])
    assert "Initialized by" not in console.file.getvalue()
    assert "\nmerged     LoRA on mmpretrain.VisionTransformer: 12,938 of" in console.file.getvalue()
    assert "outputs differ by" in capsys.readouterr().out


def test_on_a_terminal_one_line_lives(words, tmp_path, monkeypatch):
    console = Console(file=io.StringIO(), highlight=False, force_terminal=True, width=100)
    monkeypatch.setattr(screen, "CONSOLE", console)
    train.main([*words, "--work-dir", str(tmp_path), "--cfg-options", "train_cfg.max_epochs=1", *SHORT[1:]])
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", console.file.getvalue())
    last = re.split(r"[\r\n]", text.strip())[-1]
    assert re.search(r"training +\S+ 4/4 ETA 0:00:00 loss \d\.\d{3}  top1 [\d.]+ % \(best [\d.]+ %\)", last)
    assert len(last) <= 100


def test_verbose_leaves_mmengines_screen(capsys):
    with screen.run_screen(verbose=True):
        assert RUNNER.get() is Runner


def test_an_error_ends_the_line(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(screen, "CONSOLE", console)

    def breaks():
        screen.ScreenHook()._begin("training", 10, 0)
        assert console._live_stack
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), screen.run_screen():
        breaks()
    assert not console._live_stack
    assert screen._LIVING == []


def test_warnings_reach_the_screen_once_and_information_does_not(monkeypatch):
    console = Console(file=io.StringIO(), highlight=False)
    monkeypatch.setattr(screen, "CONSOLE", console)
    logger = MMLogger("screen_test", logger_name="screen_test")
    screen._move_to_screen(logger)
    for _ in range(2):
        logger.warning("a \x1b[31mred\x1b[0m [bold]thing")
    logger.warning("this will be deprecated soon")
    logger.info("unimportant")
    assert console.file.getvalue() == "warning: a red [bold]thing\n"


def test_metrics_of_other_scales():
    assert screen._figure({"accuracy/top1": 50.0}, None) == ("top1 50.00 %", 0.5)
    assert screen._figure({"own": 0.25, "n": 3}, None) == ("own 0.25", None)
    assert screen._figure({"own": 0.25}, "own") == ("own 0.25", None)
    assert screen._figure({}, None) == ("nothing is found yet", None)


def test_a_model_without_a_method():
    model = torch.nn.Linear(3, 2)
    assert screen.trained_lines(model) == ["trained    8 of 8 parameters; no method is attached"]
