"""What README and docs/ tell a reader to type: every command is parsed, Python is compiled, what is quick is run."""

import ast
import contextlib
import importlib
import inspect
import itertools
import os
import re
import runpy
import shlex
from pathlib import Path

import pytest
from support.fences import ROOT, Block, blocks

import vpeft
from vpeft.apis.catalogue import catalogue
from vpeft.apis.commands.app import word_files
from vpeft.apis.commands.arguments import Parser
from vpeft.core.contract.build import build_method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

COMMANDS = [one for one in blocks("bash", "shell", "text", "") if one.commands]
PYTHON = blocks("python")
ELSEWHERE = {"pip", "curl", "srun", "docker", "make"}


def names(found):
    return [one.name for one in found]


def word_of(words):
    """The word of a command line and what it is given; None where it is no command of ours."""
    if words[0] == "bash" and words[1].endswith(("dist_train.sh", "dist_test.sh", "slurm_train.sh")):
        assert (ROOT / words[1]).is_file()
        return ("test" if "test" in words[1] else "train"), [words[2], *words[4:]]
    words = words[1:] if words[0] == "srun" else words
    if words[0] == "python":
        words = [word for word in words[1:] if word != "-u"]
        words = words[1:] if words[0] == "-m" else words
    if words[0] == "vpeft":
        return words[1], words[2:]
    if words[0].startswith("tools/"):
        assert (ROOT / words[0]).is_file(), words[0]
        return Path(words[0]).stem, words[1:]
    return None


def main_of(word):
    file = word_files()[word.replace("_", "-")]
    return importlib.import_module(f"vpeft.apis.commands.words.{file.parent.name}.{file.stem}").main


class Parsed(Exception):
    """A command line was understood."""


@pytest.fixture
def parse_only(monkeypatch):
    whole = Parser.parse_args

    def parse_args(self, args=None, namespace=None):
        whole(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(Parser, "parse_args", parse_args)


@pytest.mark.parametrize("block", COMMANDS, ids=names(COMMANDS))
def test_commands_are_understood(block, parse_only):
    for words in block.commands:
        if "..." in words or (found := word_of(words)) is None:
            assert "..." in words or words[0] in {*ELSEWHERE, "python", "docker", "pytest"}, words
            assert words[0] != "python" or words[1] == "-m" or (ROOT / words[1]).is_file(), words
            continue
        word, given = found
        if word in ("--help", "--version"):
            continue
        assert word.replace("_", "-") in word_files(), words
        try:
            main_of(word)(given)
        except (Parsed, SystemExit) as ended:
            assert isinstance(ended, Parsed) or ended.code == 0  # noqa: PT017  (a help)
        except UserError as error:
            pytest.fail(f"{block.name}: {shlex.join(words)}: {error}")
        else:
            pytest.fail(f"{block.name}: {shlex.join(words)} was not parsed")


def test_configs_that_commands_name_exist():
    known = {row["name"] for row in catalogue("configs")}
    missing = []
    for block in COMMANDS:
        for word in itertools.chain.from_iterable(block.commands):
            if word.startswith("configs/") and not re.search(r"[${<]", word) and word.endswith((".py", ".yaml")):
                recipe = Path(word).parent / "_base_" / Path(word).name
                if word not in known and not (ROOT / word).is_file() and not (ROOT / recipe).is_file():
                    missing.append(f"{block.name}: {word}")
    assert missing == []


def called(tree):
    """What of vpeft a block calls, with the call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vpeft":
            assert hasattr(vpeft, node.attr), f"vpeft.{node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "vpeft":
            module = importlib.import_module(node.module)
            assert all(hasattr(module, one.name) for one in node.names), node.module
        if isinstance(node, ast.Call) and re.fullmatch(r"vpeft\.\w+", ast.unparse(node.func)):
            yield getattr(vpeft, node.func.attr), node


@pytest.mark.parametrize("block", PYTHON, ids=names(PYTHON))
def test_python_compiles_and_its_names_are_there(block):
    tree = ast.parse(block.text)
    for function, call in called(tree):
        inspect.signature(function).bind(*call.args, **{one.arg: one.value for one in call.keywords})
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict":
            values = {one.arg: one.value for one in node.keywords}
            with contextlib.suppress(ValueError):
                values = {key: ast.literal_eval(value) for key, value in values.items()}
                if values.get("type") in PEFT_METHODS.module_dict:
                    build_method(values)  # unknown hyper-parameters are refused


def runnable() -> dict[str, list[Block]]:
    """The blocks that are not marked, page by page."""
    pages: dict[str, list[Block]] = {}
    for block in blocks("bash", "shell", "python"):
        if block.why is None:
            pages.setdefault(block.page, []).append(block)
    return pages


@pytest.fixture
def like_the_repository(tmp_path, monkeypatch):
    for name in ("configs", "docs", "tools", "requirements"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", runnable())
def test_blocks_run_in_order(page, like_the_repository, monkeypatch, capsys):
    """A Python block that begins with ``# name.py`` is that file; the commands behind it read it."""
    monkeypatch.setattr(PEFT_METHODS, "_module_dict", dict(PEFT_METHODS.module_dict))
    for block in runnable()[page]:
        if block.language == "python":
            title = re.match(r"# (\w+\.py)\n", block.text)
            file = Path(title[1] if title else "block.py")
            file.write_text(block.text)
            if "_base_ =" not in block.text:
                runpy.run_path(str(file), run_name="block")
            continue
        for words in block.commands:
            found = word_of(words)
            assert found is not None, f"{block.name}: {shlex.join(words)} cannot be run here: mark the block"
            assert not main_of(found[0])(found[1]), f"{block.name}: {shlex.join(words)}: {capsys.readouterr().err}"


def test_what_is_not_run_is_listed():
    """Every mark says why, and some blocks are run."""
    marked = [one for one in blocks("bash", "shell", "python") if one.why is not None]
    print(*(f"{one.name}: {one.why}" for one in marked), sep=os.linesep)  # pytest -rP shows it
    assert all(len(one.why) > 3 for one in marked)
    assert {"docs/start/getting_started.md", "docs/adding_a_method.md"} <= set(runnable())
