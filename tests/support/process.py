"""What tests share with the tests after them: the process."""

import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.hooks import runtime_info_hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import runner
from mmengine.visualization import Visualizer
from torch.backends import cudnn


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}


def _put_environment(before: dict[str, str]) -> None:
    for key in _environment().keys() - before.keys():
        del os.environ[key]
    os.environ.update(before)


def _of(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


#: What is put back after each test: how it is read and how it is set.
STATE: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "environment": (_environment, _put_environment),
    "folder": (os.getcwd, os.chdir),
    "arguments": (lambda: list(sys.argv), lambda value: setattr(sys, "argv", value)),
    "hook of uncaught errors": _of(sys, "excepthook"),
    "handler of SIGINT": (lambda: signal.getsignal(signal.SIGINT), lambda how: signal.signal(signal.SIGINT, how)),
    "handler of SIGTERM": (lambda: signal.getsignal(signal.SIGTERM), lambda how: signal.signal(signal.SIGTERM, how)),
    "logs that cannot be written": _of(logging.Handler, "handleError"),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "number type": (torch.get_default_dtype, torch.set_default_dtype),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "deterministic cuDNN": _of(cudnn, "deterministic"),
    "choosing cuDNN": _of(cudnn, "benchmark"),
}

#: What mmengine keeps of the last run of a process: the scope in which types are looked up, its log file, ...
MANAGERS = (DefaultScope, MMLogger, MessageHub, Visualizer)


@contextmanager
def same_process() -> Iterator[None]:
    """Within the context there is nothing of earlier runs; after it the process is as it was."""
    _forget_runs()
    before = {name: read() for name, (read, _) in STATE.items()}
    try:
        yield
    finally:
        for name, (read, put) in STATE.items():
            if name == "folder" or read() != before[name]:  # a folder may be gone
                put(before[name])
        _forget_runs()  # before the fixtures of the next test's module


def ask_the_machine_once() -> None:
    """What mmengine's runner asks of the machine, compiler and git, is the same in every run of a process."""
    runner.collect_env = functools.cache(runner.collect_env)
    runner.get_git_hash = runtime_info_hook.get_git_hash = functools.cache(runner.get_git_hash)


def _forget_runs() -> None:
    for manager in MANAGERS:
        manager._instance_dict.clear()
