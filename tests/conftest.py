"""What every test shares."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vpeft  # noqa: F401  (before any package that it mends)

torch.set_num_threads(1)  # before any fixture: bit-equality holds for one number of threads
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same in the processes that tests start


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")
    parser.addoption("--catalogue", action="store_true", help="run the whole matrix alone, and write down its results")
    parser.addoption("--shard", default="1/1", metavar="K/N", help="with --catalogue: part K of N")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--catalogue") and not hasattr(config, "workerinput"):  # one process writes
        from support.catalogue import WritesResults

        config.pluginmanager.register(WritesResults())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The whole matrix is thousands of tests: it is not collected to be left out."""
    return (collection_path.name == "test_catalogue.py" and not config.getoption("--catalogue")) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    whole = [item for item in items if "catalogue" in item.keywords]
    if config.getoption("--catalogue"):
        part, parts = (int(number) for number in config.getoption("--shard").split("/"))
        left = set(items).difference(whole[part - 1 :: parts])
    else:
        left = set(whole)
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="marked slow: run with --slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    """What is imported and collected stays: the garbage collector need not walk through it again and again."""
    from support.process import ask_the_machine_once

    ask_the_machine_once()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.default_generator.manual_seed(0)  # all that there is here, and far quicker than torch.manual_seed


@pytest.fixture(autouse=True)
def _same_process() -> Iterator[None]:
    """What a test changes of its process would reach the tests that happen to come after it there."""
    from support.process import same_process

    with same_process():
        yield


@pytest.fixture
def images(request: pytest.FixtureRequest) -> torch.Tensor:
    """Two inputs as the test's ``host`` takes them, mmpretrain's ViT unless it has that parameter."""
    from support.hosts import inputs

    host = getattr(request.node, "callspec", None) and request.node.callspec.params.get("host")
    return inputs(host or "mmpretrain.VisionTransformer", dtype=torch.float64, seed=1)
