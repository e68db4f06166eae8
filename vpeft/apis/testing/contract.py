"""The contract of a method: its checks by name, one pair gone through, and a method on a handful of backbones."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vpeft.apis.testing.case import Case, ContractError, NotHere, one_kernel_of_attention
from vpeft.apis.testing.checks.merging import check_merge, check_merge_float32
from vpeft.apis.testing.checks.passes import check_copies_apart, check_images_apart, check_passes_apart
from vpeft.apis.testing.checks.starts import check_class, check_formula, check_start
from vpeft.apis.testing.checks.storing import check_files_and_detach
from vpeft.apis.testing.checks.training import (
    check_autocast,
    check_checkpointing,
    check_gradients_and_steps,
    check_memory,
    check_no_silent_bypass,
    check_other_input_size,
)
from vpeft.apis.testing.hosts import TINY, tiny_of
from vpeft.apis.testing.models import ON_CLIPS, seeded
from vpeft.core.contract.build import build_method
from vpeft.core.contract.method import Method
from vpeft.errors import UserError, missing_package, one_line
from vpeft.registry import PEFT_METHODS, nearest

#: The checks of a method on a backbone, by their names.
CHECKS: dict[str, Callable[[Case], None]] = {
    "1_start": check_start,
    "2_gradients_and_steps": check_gradients_and_steps,
    "3_parameter_formula": check_formula,
    "4_merge": check_merge,
    "4_merge_float32": check_merge_float32,
    "5_files_and_detach": check_files_and_detach,
    "6_memory_class": check_memory,
    "7_checkpointing": check_checkpointing,
    "7_autocast": check_autocast,
    "7_other_input_size": check_other_input_size,
    "no_silent_bypass": check_no_silent_bypass,
    "images_apart": check_images_apart,
    "passes_apart": check_passes_apart,
    "copies_apart": check_copies_apart,
}
#: Gone through unless others are named, where their library is installed: qkv fused, in three parts and stated by
#: attention of torch's own; tokens, windows and maps, with and without attention.
HANDFUL = (
    "timm.VisionTransformer",
    "timm.SwinTransformer",
    "transformers.ViTModel",
    "torchvision.VisionTransformer",
    "torchvision.ConvNeXt",
    "mmpretrain.VisionTransformer",
)
#: A pass that hides, shuffles or pads its tokens has no map for methods that look at neighbours.
NO_MAP = "lie on no one map"


@dataclasses.dataclass(frozen=True)
class Checked:
    """One check of a method.

    Attributes:
        host: Name of the tiny backbone; empty for what the class states of itself.
        check: Name of the check; empty where the host refuses the method as a whole.
        result: ``passed``, ``refused``, ``not here`` or ``failed``.
        words: Why, where it did not pass.
    """

    host: str
    check: str
    result: str
    words: str = ""


@dataclasses.dataclass(frozen=True)
class ContractReport:
    """What was found of a method; as text, a line for each backbone.

    Attributes:
        method: Its name.
        checked: All checks, in order.
        missing: Backbones that were left out, and the package that is not installed.
    """

    method: str
    checked: tuple[Checked, ...]
    missing: Mapping[str, str]

    @property
    def failures(self) -> list[Checked]:
        return [one for one in self.checked if one.result == "failed"]

    @property
    def accepted(self) -> list[str]:
        """The backbones that the method attaches to and keeps the contract on."""
        failed = {one.host for one in self.failures}
        passed = (one.host for one in self.checked if one.host and one.result == "passed")
        return [host for host in dict.fromkeys(passed) if host not in failed]

    def __str__(self) -> str:
        lines = [f"{self.method}: {len(self.failures) or 'no'} failure{'s' * (len(self.failures) != 1)}"]
        for host in dict.fromkeys(one.host for one in self.checked if one.host):
            own = [one for one in self.checked if one.host == host]
            passed = sum(one.result == "passed" for one in own)
            left = [f"{one.check or 'attaching'} {one.result}: {one.words}" for one in own if one.result != "passed"]
            lines.append("\n    ".join([f"{host}: {passed} passed", *left]))
        lines += [f"{host}: not gone through, {package} is not installed" for host, package in self.missing.items()]
        return "\n  ".join(lines)


def check_method(
    method: type[Method] | Method | str | Mapping[str, Any],
    hosts: Sequence[str] | None = None,
    checks: Collection[str] | None = None,
) -> ContractReport:
    """Go through the contract of a method on tiny backbones.

    Args:
        method: Its registered class, an object of it, its name, or its config.
        hosts: Names of tiny backbones: those of registered hosts (``vpeft list hosts``), or ``<host>/<variant>``. None
            takes :data:`HANDFUL`, or image backbones on clips for a method of frames, as far as their libraries are
            installed.
        checks: Names of :data:`CHECKS`; None takes all.

    Returns:
        What was found, where nothing failed.

    Raises:
        ContractError: A check failed, or no backbone takes the method; the message says what differs, where, and what
            to do.
        UserError: What was asked for does not exist.
    """
    config = config_of(method)
    hosts, missing = chosen_hosts(hosts, config)
    if unknown := [name for name in checks or () if name not in CHECKS]:
        raise UserError(f"there is no check {unknown[0]!r} of a method: {nearest(unknown[0], CHECKS)}")
    report = ContractReport(config["type"], tuple(_all(config, hosts, checks)), missing)
    refused = [one for one in report.checked if one.result == "refused"]
    if report.failures:
        raise ContractError(_told(report))
    if not report.accepted:
        why = "".join(f"\n  {one.host}: {one.words}" for one in refused)
        raise ContractError(f"{report.method} attaches to none of the tiny backbones that are here:{why}")
    return report


def config_of(method: type[Method] | Method | str | Mapping[str, Any]) -> dict[str, Any]:
    """The config of a method that is to be gone through.

    Raises:
        UserError: The class is not registered, or there is no such method.
        ContractError: What the class states of itself is at fault.
    """
    if isinstance(method, type):
        if method not in PEFT_METHODS.module_dict.values():
            raise UserError(
                f"{method.__module__}.{method.__qualname__} is not registered: put @PEFT_METHODS.register_module() of "
                "vpeft.registry above the class."
            )
        check_class(method)
        method = method.registered_name()
    if isinstance(method, Method):
        return method.config()
    return build_method(method).config()


def chosen_hosts(names: Sequence[str] | None, config: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The backbones whose library is here, and those that are left out with the package that is not."""
    for name in names or ():
        host, _, variant = name.partition("/")
        if host not in TINY or (variant and name not in TINY and variant not in TINY[host].variants):
            raise UserError(f"there is no tiny backbone {name!r}: {nearest(name, TINY)}")
    usual = ON_CLIPS if PEFT_METHODS.get(config["type"]).needs_frames else HANDFUL
    packages = {name: name.split(".")[0] for name in names or usual}
    missing = {name: package for name, package in packages.items() if find_spec(package) is None}
    if names and missing:
        name, package = next(iter(missing.items()))
        raise UserError(f"{name}: {missing_package(ModuleNotFoundError(name=package))}")
    return [name for name in packages if name not in missing], missing


def _all(config: Mapping[str, Any], hosts: Iterable[str], checks: Collection[str] | None) -> Iterator[Checked]:
    try:
        check_class(PEFT_METHODS.get(config["type"]))
    except ContractError as error:
        yield Checked("", "class", "failed", one_line(error))
    for host in hosts:
        with tempfile.TemporaryDirectory() as folder:
            yield from go_through(host, config, Path(folder), checks)


def go_through(
    host: str, config: Mapping[str, Any], folder: Path, checks: Collection[str] | None = None
) -> Iterator[Checked]:
    """The checks of a pair, one after the other; a host that refuses the method is said once.

    Args:
        host: Name of a tiny backbone.
        config: The method's.
        folder: For files.
        checks: Names; None takes all.
    """
    try:
        Case(host, config, folder).adapted()
    except NotHere as refusal:
        yield Checked(host, "", "refused", str(refusal))
        return
    except Exception as error:
        yield Checked(host, "", "failed", _words(error))
        return
    for number, name in enumerate(CHECKS if checks is None else [name for name in CHECKS if name in checks]):
        own = folder / str(number)
        own.mkdir(parents=True)
        try:
            check_pair(name, host, config, own)
        except NotHere as reason:
            yield Checked(host, name, "not here", str(reason))
        except Exception as error:
            if isinstance(error, UserError) and NO_MAP in str(error):
                yield Checked(host, "", "refused", one_line(error))
                return
            yield Checked(host, name, "failed", _words(error))
        else:
            yield Checked(host, name, "passed")


def check_pair(name: str, host: str, config: Mapping[str, Any], folder: Path) -> None:
    """One check of a method on one tiny backbone.

    Raises:
        NotHere: It says nothing here, or the host refuses the method.
        ContractError: It fails.
        UserError: A pass has no map for the method to look at.
    """
    seeded(0)
    with one_kernel_of_attention():
        CHECKS[name](Case(host, config, folder))


def _words(error: BaseException) -> str:
    return one_line(error if isinstance(error, ContractError) else f"{type(error).__name__}: {error}")


def _told(report: ContractReport) -> str:
    """All failures; what several backbones show is said once."""
    where: dict[tuple[str, str], list[str]] = {}
    for one in report.failures:
        where.setdefault((one.check, one.words.replace(tiny_host(one.host), "HOST")), []).append(one.host)
    lines = []
    for (check, words), hosts in where.items():
        on = f" on {', '.join(hosts)}" if any(hosts) else ""
        lines.append(f"\n  {check or 'attaching'}{on}: {words.replace('HOST', tiny_host(hosts[0]))}")
    return f"{report.method} does not keep the contract:{''.join(lines)}"


def tiny_host(name: str) -> str:
    """The registered name of a tiny backbone's host."""
    return name.split("/")[0] if name else "\0"


def has_check(name: str, host: str) -> bool:
    """Whether a check can say something on a tiny backbone."""
    return name != "7_other_input_size" or (host in TINY and "other-size" in tiny_of(host).variants)
