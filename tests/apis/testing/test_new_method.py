"""``vpeft new-method``: what it writes passes, as a function and as tests of pytest."""

import subprocess
import sys
from pathlib import Path

import pytest

from vpeft.apis.commands.words.study.new_method import main
from vpeft.apis.testing.contract import CHECKS
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS
from vpeft.testing import check_method

ROOT = Path(__file__).parents[3]
HOST = "torchvision.ConvNeXt"


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(PEFT_METHODS, "_module_dict", dict(PEFT_METHODS.module_dict))


def test_what_it_writes_passes(tmp_path, monkeypatch, capsys):
    main(["MyOwnLoRA2", "--out", str(tmp_path / "new"), "--category", "reparameter"])
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == ["my_own_lo_ra2.py", "test_my_own_lo_ra2.py"]
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [str(tmp_path / "new" / name) for name in written]
    monkeypatch.syspath_prepend(tmp_path / "new")
    from my_own_lo_ra2 import MyOwnLoRA2

    report = check_method(MyOwnLoRA2, hosts=[HOST, "torchvision.VisionTransformer"])
    assert len(report.accepted) == 2
    assert MyOwnLoRA2.category == "reparameter"
    assert check_method(MyOwnLoRA2(bottleneck=3, scale=0.5), hosts=[HOST], checks=["4_merge"]).accepted == [HOST]


def run_pytest(*arguments):
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


def test_its_test_is_one_for_each_check(tmp_path):
    main(["Mine", "--out", str(tmp_path)])
    test = tmp_path / "test_mine.py"
    test.write_text(test.read_text().replace("each_check(Mine)", f"each_check(Mine, hosts=['{HOST}'])"))
    done = run_pytest(test)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CHECKS)} passed" in done.stdout


def test_the_plugin_goes_through_a_file(tmp_path):
    main(["Mine", "--out", str(tmp_path)])
    wrong = tmp_path / "wrong.py"
    wrong.write_text((tmp_path / "mine.py").read_text().replace("Mine", "Wrong").replace("zeros_(", "ones_("))
    done = run_pytest("-p", "vpeft.testing", "--vpeft-hosts", HOST, tmp_path / "mine.py", wrong)
    assert f"1 failed, {2 * len(CHECKS) - 1} passed" in done.stdout, done.stdout + done.stderr
    assert "state identity_at_start = False." in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["lora"], "'lora' is no name of a class"),
        (["LoRA"], r"there is a method LoRA already \(vpeft.algorithms.reparameter.lora\)"),
        (["Mine", "--category", "adaptor"], "there is no category 'adaptor': did you mean 'adapter'"),
        (["Mine"], "mine.py is there already"),
    ],
)
def test_what_it_refuses(given, words, tmp_path):
    (tmp_path / "mine.py").write_text("kept")
    with pytest.raises(UserError, match=words):
        main([*given, "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
    assert (tmp_path / "mine.py").read_text() == "kept"
