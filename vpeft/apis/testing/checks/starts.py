"""What a method is before it is trained: its class, its count, its start."""

from __future__ import annotations

import dataclasses

import torch

from vpeft.apis.testing.case import Case, ContractError
from vpeft.apis.testing.differences import difference_words, first_change
from vpeft.apis.testing.models import tokens, trained
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.report import parameter_report
from vpeft.core.contract.method import CATEGORIES, Method
from vpeft.core.contract.values import type_hints
from vpeft.registry import PEFT_METHODS, nearest

MEMORY = ("M0", "M1", "M1w", "M2", "M2w")


def check_class(cls: type[Method]) -> None:
    """What the class states of itself."""
    name = cls.__qualname__
    for attribute, known in (("category", CATEGORIES), ("memory", MEMORY)):
        stated = getattr(cls, attribute, None)
        if stated not in known:
            raise ContractError(f"{name}.{attribute} is {stated!r}: state one of {', '.join(known)}.")
    if "__dataclass_fields__" not in vars(cls):
        raise ContractError(f"{name} is no dataclass of its own: put @dataclass(kw_only=True) above the class.")
    if not getattr(cls, "paper", None) or not (cls.__doc__ or "").strip() or cls.__doc__.startswith(f"{name}("):
        raise ContractError(f"{name} names no paper or has no docstring: state paper = ... and the equation in words.")
    if cls.stated_start() not in ("bits", "rounding", "other"):
        raise ContractError(f"{name}.identity_at_start is {cls.identity_at_start!r}: True, 'rounding' or False.")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints, stated = type_hints(cls), cls.__mro__[: cls.__mro__.index(Method)]
    for field in fields.values():
        if not any(field.name in vars(one).get("__annotations__", {}) for one in stated):
            continue  # an option that every method has
        if hasattr(Method, field.name):
            raise ContractError(f"{name}.{field.name} hides Method.{field.name}: name the hyper-parameter otherwise.")
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ContractError(f"{name}.{field.name} has no default: state one, with its source in the docstring.")
        if field.name not in hints:
            raise ContractError(f"the type hint of {name}.{field.name} names what is not there: import it.")
    for key in cls.space:
        if key not in (*fields, "lr", "weight_decay"):
            raise ContractError(f"{name}.space names {key!r}, which is no hyper-parameter: {nearest(key, fields)}")
    same = [other for other, one in PEFT_METHODS.module_dict.items() if one is not cls and one.key() == cls.key()]
    if same:
        raise ContractError(
            f"{cls.registered_name()} and {same[0]} have one key, {cls.key()!r}, in the names of stored tensors: "
            "register yours under another name."
        )


def check_start(case: Case) -> None:
    """The output at the start is the frozen host's, bit for bit or but for rounding, or another, as the class says."""
    plain, model = case.attached()
    x, stated = case.images(), case.cls.stated_start()
    with torch.no_grad():
        want, got = tokens(plain, x), tokens(model, x)
    same = got.shape == want.shape
    close = same and torch.allclose(got, want, rtol=1e-12, atol=1e-12)
    found = "bits" if same and torch.equal(got, want) else "rounding" if close else "other"
    if found not in {"rounding": ("bits", "rounding")}.get(stated, (stated,)):
        # A start that is another than the host's must be so by more than rounding, else it has not been looked at.
        first = first_change(get_adaptation(model), lambda: tokens(model, x))
        raise ContractError(
            _start_words(stated, found, "" if found == "bits" else f": {difference_words(got, want)}", first)
        )
    if stated != "other":  # a product of which one side asks for a gradient is cut otherwise by torch
        want, got = tokens(plain, x), tokens(model, x)
        if not torch.allclose(got, want, rtol=1e-12, atol=1e-12):
            raise ContractError(
                f"where a gradient is asked for, the start is not the host's: {difference_words(got, want)}."
            )


def _start_words(stated: str, found: str, apart: str, first: str | None) -> str:
    are = {"bits": "bit-equal to", "rounding": "equal to rounding to", "other": "not"}
    say = {"bits": "True", "rounding": '"rounding"', "other": "False"}
    at = f" The first module that changes what passes: {first}." if first and found != "bits" else ""
    mend = "let reset_parameters() start the module that it adds at zero, or a factor at one, or " if apart else ""
    return (
        f"identity_at_start = {say[stated]} says that the output at the start is {are[stated]} the frozen host's, and "
        f"it is {are[found]} it{apart}.{at} What to do: {mend}state identity_at_start = {say[found]}."
    )


def check_formula(case: Case) -> None:
    """``count(host)``, the report's numbers and what is trained agree."""
    model = case.adapted(torch.float32)
    adaptation = get_adaptation(model)
    (method,) = adaptation.on_host.values()
    real, formula = sum(p.numel() for p in trained(model).values()), method.count()
    if formula != real:
        raise ContractError(f"count(host) says {formula:,} and {real:,} numbers are trained: mend count(host).")
    report = parameter_report(model)
    rows = sum(row[-1] for row in (*report.sites, *report.existing))
    if (report.trainable_without_head, rows) != (real, real):
        raise ContractError(
            f"{real:,} numbers are trained, and the report finds {report.trainable_without_head:,}, {rows:,} of them "
            "at sites: place every module at a site (block.place), or keep what blocks share once (host.keep)."
        )
