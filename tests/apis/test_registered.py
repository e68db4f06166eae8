"""The table that is read from the files, against what registering gives."""

from types import SimpleNamespace

import pytest

from vpeft.apis import registered as module
from vpeft.apis.catalogue import catalogue_rows, methods
from vpeft.apis.commands.words.look.list import DETAILS
from vpeft.apis.registered import registered
from vpeft.registry import HOSTS, PEFT_METHODS


@pytest.mark.parametrize("registry", ["PEFT_METHODS", "HOSTS"])
def test_the_files_say_what_registering_gives(registry):
    known = {"PEFT_METHODS": PEFT_METHODS, "HOSTS": HOSTS}[registry].module_dict
    own = {name: (c.__module__, c.__name__) for name, c in known.items() if c.__module__.startswith("vpeft.")}
    assert {name: (one.module, one.cls) for name, one in registered(registry).items()} == own


def test_what_is_shown_of_methods_is_what_they_say(monkeypatch):
    """Every column, for every method; also those that a class inherits."""
    found = {row["name"]: {key: row[key] for key in row if key not in DETAILS} for row in methods()}
    monkeypatch.setattr("vpeft.apis.catalogue.sys", SimpleNamespace(modules={}))
    rows = catalogue_rows("methods")
    assert [row["name"] for row in rows] == sorted(registered("PEFT_METHODS"))
    assert all(row == found[row["name"]] for row in rows)
    assert [list(row) for row in rows[:1]] == [list(found["LoRA"])]


def test_methods_of_others_are_shown_where_they_are_registered():
    """In a process that has imported torch, the registry is asked."""
    assert [row["name"] for row in catalogue_rows("methods")] == sorted(PEFT_METHODS.module_dict)


def test_a_class_states_what_its_bases_state(tmp_path, monkeypatch):
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "base.py").write_text("class Base:\n    memory: str = 'M2'\n    category = 'none'\n")
    (tmp_path / "one.py").write_text(
        "@PEFT_METHODS.register_module()\n@dataclass(kw_only=True)\nclass One(Base):\n    category = 'adapter'\n"
        "@PEFT_METHODS.register_module(name='Two-A')\n@PEFT_METHODS.register_module(name='Two-B')\n"
        "class Two(Other[int], One):\n    paper = ('a' 'b')\n    memory = worked_out()\n"
        "@HOSTS.register_module()\nclass Three: pass\n"
    )
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    monkeypatch.setattr(module, "ROOMS", {"PEFT_METHODS": (".",)})
    found = registered.__wrapped__("PEFT_METHODS")
    assert set(found) == {"One", "Two-A", "Two-B"}
    assert found["One"].states == {"memory": "M2", "category": "adapter"}
    assert found["Two-B"] == found["Two-A"]
    assert (found["Two-A"].module, found["Two-A"].states) == ("vpeft.one", {"category": "adapter", "paper": "ab"})
