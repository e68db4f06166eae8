"""Seeded mutations of good files.

A mutator takes the good file's bytes and a random generator and gives other bytes. Its harm says who can see it:

``STRUCTURE``  every reader: the end is missing, or a key, or a value is of another kind; what is read of it, if
               anything, must be what was in the good file
``BYTES``      a format with a checksum of its bytes: elsewhere they may make another valid file
``VALUES``     a file that was sealed by who made it: elsewhere it is another valid file, whole as the good one
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

STRUCTURE, BYTES, VALUES = "structure", "bytes", "values"


@dataclass(frozen=True)
class Mutator:
    """One way of breaking a file.

    Attributes:
        name: What it does.
        harm: ``STRUCTURE``, ``BYTES`` or ``VALUES``.
        apply: Gives the bytes of the broken file; None where it does not apply.
        once: It has no chance in it: the same bytes for every seed.
    """

    name: str
    harm: str
    apply: Callable[[bytes, random.Random], bytes | None]
    once: bool = False


#: Mutators by format; those of ``bytes`` fit every file, those of ``text`` every text.
MUTATORS: dict[str, list[Mutator]] = {}


def mutator(formats: str, harm: str = STRUCTURE, once: bool = False):
    """Register a function ``(good, rng) -> bytes`` under its name, for formats separated by blanks."""

    def register(function):
        for name in formats.split():
            entry = Mutator(function.__name__.replace("_", " "), harm, function, once)
            MUTATORS.setdefault(name, []).append(entry)
        return function

    return register


# Bytes --------------------------------------------------------------------------------------------------------------


@mutator("binary json xml")
def cut_off(good, rng):
    return good[: rng.randrange(len(good))]


@mutator("binary json xml")
def cut_off_near_the_end(good, rng):
    return good.rstrip()[: -rng.randint(1, min(64, len(good) - 1))]


@mutator("list yaml", BYTES)
def cut_off_text(good, rng):
    return good[: rng.randrange(len(good))]


@mutator("binary json xml list yaml", BYTES)
def one_bit(good, rng):
    data = bytearray(good)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


@mutator("binary json xml list yaml", BYTES)
def bits_in_the_first_bytes(good, rng):
    data = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(min(len(data), 96))] ^= 1 << rng.randrange(8)
    return bytes(data)


@mutator("binary json xml list yaml", BYTES)
def many_bits(good, rng):
    data = bytearray(good)
    for _ in range(1 + len(data) // 50):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


@mutator("binary json xml list yaml", BYTES)
def a_block_of_zeros(good, rng):
    start = rng.randrange(len(good))
    size = min(len(good) - start, rng.choice([1, 16, 512, 4096]))
    return good[:start] + bytes(size) + good[start + size :]


@mutator("binary json xml list yaml", BYTES)
def a_block_left_out(good, rng):
    start = rng.randrange(len(good))
    return good[:start] + good[start + rng.choice([1, 7, 64, 512]) :]


@mutator("binary json xml list yaml", BYTES)
def a_block_twice(good, rng):
    start = rng.randrange(len(good))
    end = start + rng.choice([1, 16, 512])
    return good[:end] + good[start:end] + good[end:]


@mutator("binary json xml list yaml", BYTES)
def random_bytes_inserted(good, rng):
    start = rng.randrange(len(good))
    return good[:start] + rng.randbytes(rng.randint(1, 40)) + good[start:]


@mutator("binary json xml list yaml", BYTES)
def two_blocks_swapped(good, rng):
    size = max(1, min(256, len(good) // 4))
    a, b = sorted((rng.randrange(len(good) // 2), rng.randrange(len(good) // 2, len(good))))
    size = min(size, b - a, len(good) - b)
    return good[:a] + good[b : b + size] + good[a + size : b] + good[a : a + size] + good[b + size :]


@mutator("binary json xml")
def junk_behind(good, rng):
    return good + rng.randbytes(rng.choice([1, 100, 5000]))


@mutator("binary json xml", BYTES)
def junk_before(good, rng):
    return rng.randbytes(rng.choice([1, 8, 100])) + good


@mutator("binary json xml list yaml", once=True)
def empty(good, rng):
    return b""


@mutator("binary json xml list yaml", once=True)
def zeros_of_the_same_size(good, rng):
    return bytes(len(good))


@mutator("binary json xml list yaml")
def nothing_but_random_bytes(good, rng):
    return rng.randbytes(len(good))


@mutator("binary json xml list yaml", once=True)
def a_page_of_a_server(good, rng):
    return b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body><p>Not Found</body></html>\n"


@mutator("binary json xml list yaml", once=True)
def a_pointer_of_git_lfs(good, rng):
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a2146" * 8 + b"\nsize 12345\n"


@mutator("binary json xml list yaml", once=True)
def packed_with_gzip(good, rng):
    return zlib.compress(good, wbits=31)


@mutator("binary json xml list yaml", once=True)
def a_program(good, rng):
    return b"#!/bin/sh\nexit 0\n"


# Text ---------------------------------------------------------------------------------------------------------------


@mutator("json xml list yaml", once=True)
def in_utf_16(good, rng):
    return good.decode().encode("utf-16")


@mutator("json xml list yaml")
def not_in_utf_8(good, rng):
    places = [match.start() for match in re.finditer(rb"[a-z]", good)]
    place = rng.choice(places)
    return good[:place] + rng.choice([b"\xe9", b"\xff", b"\xc3\x28", b"\xed\xa0\x80"]) + good[place + 1 :]


@mutator("json list yaml", once=True)
def with_a_byte_order_mark(good, rng):
    return b"\xef\xbb\xbf" + good


@mutator("json xml list yaml", once=True)
def lines_of_windows(good, rng):
    return good.replace(b"\n", b"\r\n")


@mutator("list", once=True)
def lines_of_old_macs(good, rng):
    return good.replace(b"\n", b"\r")


@mutator("list", once=True)
def blank_lines(good, rng):
    return b"\n \n" + good.replace(b"\n", b"\n\n\t\n")


def _line(good: bytes, rng: random.Random, change: Callable[[str, str, str], str]) -> bytes:
    """One line of a list changed; ``change`` gets its path, separator and label."""
    lines = good.decode().splitlines()
    place = rng.randrange(len(lines))
    path, separator, label = re.fullmatch(r"(.*?)([ ,])(\d+)", lines[place]).groups()
    lines[place] = change(path, separator, label)
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


#: What stands for a label and is none of the tasks' classes.
LABELS = ["-1", "999999", "1.0", "1e0", "0x1", "1_0", "", "one", "nan", "inf", "None", "true", "9" * 30, "9" * 5000]
LABELS += ["\uff11", "\u0661", "+", "--1", "1;", "'1'", "[1]", "1\x00", "1\x1b[2J"]
#: What stands for a path and is no image of the task.
PATHS = ["", "/", ".", "..", "a" * 300, "a/" * 3000, "nul\x00.jpg", "\x1b[31mred.jpg", "\udcff.jpg", "~", "$HOME/a.jpg"]


@mutator("list")
def a_label_that_is_none(good, rng):
    return _line(good, rng, lambda path, sep, label: f"{path}{sep}{rng.choice(LABELS)}")


@mutator("list")
def a_path_that_is_none(good, rng):
    return _line(good, rng, lambda path, sep, label: f"{rng.choice(PATHS)}{sep}{label}")


@mutator("list")
def a_line_without_a_label(good, rng):
    return _line(good, rng, lambda path, sep, label: path)


@mutator("list")
def label_and_path_swapped(good, rng):
    return _line(good, rng, lambda path, sep, label: f"{label}{sep}{path}")


@mutator("list")
def a_second_label(good, rng):
    return _line(good, rng, lambda path, sep, label: f"{path}{sep}{label}{sep}{label}.5")


@mutator("list")
def a_very_long_line(good, rng):
    return _line(good, rng, lambda path, sep, label: f"{path}{'x' * 2_000_000}{sep}{label}")


@mutator("list", once=True)
def a_path_out_of_the_folder(good, rng):
    return _line(good, rng, lambda path, sep, label: f"../../../../../../../../etc/passwd{sep}{label}")


@mutator("list", once=True)
def a_merge_conflict(good, rng):
    half = len(good.splitlines()) // 2
    lines = good.splitlines()
    return b"\n".join([b"<<<<<<< HEAD", *lines[:half], b"=======", *lines[half:], b">>>>>>> other", b""])


# JSON ---------------------------------------------------------------------------------------------------------------


def _places(value: Any, at: tuple = ()) -> list[tuple]:
    """The paths of all that a tree of dictionaries and lists holds."""
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += _places(inner, (*at, key))
    return found


def _changed(value: Any, at: tuple, change: Callable[[Any, Any], None]) -> Any:
    """A copy in which ``change(container, key)`` was done at a path."""
    value = copy.deepcopy(value)
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    change(inner, at[-1])
    return value


def _at_random(tree: Any, rng: random.Random, change: Callable[[Any, Any], None]) -> Any:
    places = _places(tree)
    # Few places are deep and many alike: every depth is as likely.
    depth = rng.choice(sorted({len(place) for place in places}))
    return _changed(tree, rng.choice([place for place in places if len(place) == depth]), change)


#: Values of other kinds than any that is expected.
KINDS = [None, True, "", "junk", "\x1b[2J", [], [None], {}, {"a": 1}, 1.5, -1, 10**30, "9" * 5000, [[[[]]]]]
_NUMBERS = [float("nan"), float("inf"), -float("inf"), 1e308]


def other_kind(old: Any, rng: random.Random) -> Any:
    """A value of another kind than ``old``."""
    alike = (int, float) if isinstance(old, (int, float)) and not isinstance(old, bool) else type(old)
    kinds = [v for v in KINDS if not isinstance(v, alike) or isinstance(v, bool) != isinstance(old, bool)]
    return rng.choice(kinds)


@mutator("json")
def json_a_value_of_another_kind(good, rng):
    def change(container, key):
        container[key] = other_kind(container[key], rng)

    return json.dumps(_at_random(json.loads(good), rng, change)).encode()


@mutator("json", VALUES)
def json_a_part_left_out(good, rng):
    return json.dumps(_at_random(json.loads(good), rng, lambda container, key: container.pop(key))).encode()


@mutator("json", VALUES)
def json_a_part_twice(good, rng):
    def change(container, key):
        if isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container[f"{key}_2"] = copy.deepcopy(container[key])

    return json.dumps(_at_random(json.loads(good), rng, change)).encode()


@mutator("json")
def json_a_number_that_is_none(good, rng):
    tree = json.loads(good)
    places = [p for p in _places(tree) if type(_get(tree, p)) in (int, float)]
    if not places:
        return None

    def change(container, key):
        container[key] = rng.choice(_NUMBERS[:3])

    return json.dumps(_changed(tree, rng.choice(places), change)).encode()


@mutator("json", VALUES)
def json_a_number_without_measure(good, rng):
    tree = json.loads(good)
    places = [p for p in _places(tree) if type(_get(tree, p)) in (int, float)]
    if not places:
        return None

    def change(container, key):
        container[key] = rng.choice([10**18, 10**400, -(10**30), 1e308, -1, 0, 2**31, 2**63, 0.5])

    return json.dumps(_changed(tree, rng.choice(places), change)).encode()


def _get(tree: Any, at: tuple) -> Any:
    for key in at:
        tree = tree[key]
    return tree


@mutator("json", once=True)
def json_deeper_than_any_stack(good, rng):
    return b"[" * 200_000 + b"]" * 200_000


@mutator("json", once=True)
def json_deep_inside(good, rng):
    tree = json.loads(good)
    text = json.dumps(_changed(tree, _places(tree)[0], lambda c, k: c.__setitem__(k, "@@")))
    return text.replace('"@@"', '{"a":' * 100_000 + "1" + "}" * 100_000).encode()


@mutator("json", once=True)
def json_a_number_of_many_digits(good, rng):
    tree = json.loads(good)
    places = [p for p in _places(tree) if type(_get(tree, p)) is int]
    if not places:
        return None
    text = json.dumps(_changed(tree, places[0], lambda c, k: c.__setitem__(k, "@@")))
    return text.replace('"@@"', "9" * 100_000).encode()


@mutator("json", once=True)
def json_another_top(good, rng):
    return b"[" + good.strip() + b"]"


@mutator("json")
def json_a_literal_on_top(good, rng):
    return rng.choice([b"null", b"1", b'"a"', b"[]", b"{}", b"NaN", b"true"])


# YAML ---------------------------------------------------------------------------------------------------------------

YAMLS = [
    "methods: !!python/object/apply:os.system ['touch @CANARY@']\n",
    "methods: !!python/object/new:os.system ['touch @CANARY@']\n",
    "methods: [lora]\nx: !!python/object/apply:builtins.open ['@CANARY@', 'w']\n",
    "!!python/module:antigravity x\n",
    "methods: &a [*a]\n",
    "methods: [lora]\nmethods: [mona]\n",
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)),
    "[" * 50_000,
    "methods: [lora]\n\ttasks: [digits]\n",
    "- methods\n- lora\n",
    "just a text\n",
    "methods: [lora\n",
    "? [a]\n: b\n",
    "methods: [lora]\nseeds: [0]\n---\nmethods: [mona]\n",
    "%YAML 9.9\n---\nmethods: [lora]\n",
    "methods: [lora]\ntasks: 2001-01-01\n",
    "methods: [lora]\ntasks: [digits]\nseeds: 2001-99-99\n",
]


@mutator("yaml")
def a_plan_that_is_none(good, rng):
    return rng.choice(YAMLS).encode()


@mutator("yaml")
def yaml_a_value_of_another_kind(good, rng):
    import yaml

    tree = yaml.safe_load(good)

    def change(container, key):
        container[key] = other_kind(container[key], rng)

    return yaml.safe_dump(_at_random(tree, rng, change)).encode()


@mutator("yaml", VALUES)
def yaml_a_part_left_out(good, rng):
    import yaml

    return yaml.safe_dump(_at_random(yaml.safe_load(good), rng, lambda container, key: container.pop(key))).encode()


@mutator("yaml")
def yaml_an_unknown_field(good, rng):
    return good + rng.choice([b"methds: [lora]\n", b"1: 2\n", b"null: 3\n", b"true: x\n", b"[1, 2]: x\n"])


# XML ----------------------------------------------------------------------------------------------------------------

ENTITIES = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
)


@mutator("xml")
def xml_a_text_that_is_no_number(good, rng):
    numbers = [*re.finditer(rb"(?<=>)-?\d+(?=<)", good)]
    match = rng.choice(numbers)
    junk = [
        b"",
        b"one",
        b"nan",
        b"inf",
        b"1e400",
        b"9" * 5000,
        b"1_0",
        b"0x10",
        b" ",
        b"1,5",
        "\uff11".encode(),
        b"<a/>",
    ]
    return good[: match.start()] + rng.choice(junk) + good[match.end() :]


@mutator("xml", VALUES)
def xml_a_line_left_out(good, rng):
    lines = good.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


@mutator("xml")
def xml_another_root(good, rng):
    return rng.choice([b"<a/>", b"<annotation/>", b"<html><body/></html>", b"<annotation>text</annotation>"])


@mutator("xml", once=True)
def xml_deeper_than_any_stack(good, rng):
    return b"<annotation>" * 100_000 + b"</annotation>" * 100_000


@mutator("xml", once=True)
def xml_a_thousand_million_laughs(good, rng):
    return f"{ENTITIES}]><annotation><size><width>&j;</width></size></annotation>".encode()


@mutator("xml", once=True)
def xml_an_outer_entity(good, rng):
    head = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
    return head + re.sub(rb"(?<=<width>)\d+", b"&x;", good, count=1)


@mutator("xml")
def xml_another_encoding_named(good, rng):
    return b'<?xml version="1.0" encoding="' + rng.choice([b"utf-16", b"ebcdic", b"rot13", b"hex"]) + b'"?>' + good


# Safetensors --------------------------------------------------------------------------------------------------------


def open_safetensors(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the values."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def close_safetensors(header: Any, values: bytes) -> bytes:
    """A file of a header (or its text) and values."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + values


def _tensors(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    import safetensors.torch

    header, _ = open_safetensors(data)
    return safetensors.torch.load(data), header.get("__metadata__", {})


def _stored(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    import safetensors.torch

    return safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, metadata)


@mutator("safetensors")
def header_of_a_huge_size(good, rng):
    size = rng.choice([2**63 - 1, 2**64 - 1, 2**40, 100_000_001, len(good), len(good) - 7, 0, 1])
    return struct.pack("<Q", size) + good[8:]


@mutator("safetensors")
def header_that_is_no_header(good, rng):
    _, values = open_safetensors(good)
    headers = [b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b"[]", b"null", b"{}", b'{"a":1}', b"\xff" * 64]
    return close_safetensors(rng.choice(headers), values)


@mutator("safetensors")
def offsets_that_are_wrong(good, rng):
    header, values = open_safetensors(good)
    key = rng.choice([k for k in header if k != "__metadata__"])
    start, end = header[key]["data_offsets"]
    wrong = [[start, end + 4], [end, start], [-4, end], [start + 1, end + 1], [2**62, 2**62 + end - start], [start], []]
    header[key]["data_offsets"] = rng.choice(wrong)
    return close_safetensors(header, values)


@mutator("safetensors")
def a_header_entry_of_another_kind(good, rng):
    header, values = open_safetensors(good)
    key = rng.choice([k for k in header if k != "__metadata__"])
    field = rng.choice(["dtype", "shape", "data_offsets"])
    junk = {"dtype": ["F3", "", None, 7, "f32"], "shape": [[-1], "x", None, [2**63], [1.5], [[1]]]}
    header[key][field] = rng.choice(junk.get(field, [None, "x", [0, 0, 0]]))
    return close_safetensors(header, values)


@mutator("safetensors")
def two_tensors_over_one_another(good, rng):
    header, values = open_safetensors(good)
    keys = [k for k in header if k != "__metadata__"]
    a, b = rng.sample(keys, 2)
    header[a]["data_offsets"] = header[b]["data_offsets"]
    return close_safetensors(header, values)


@mutator("safetensors", VALUES)
def values_of_two_tensors_swapped(good, rng):
    header, values = open_safetensors(good)
    keys = [k for k in header if k != "__metadata__"]
    pairs = [(a, b) for a in keys for b in keys if a < b and header[a]["shape"] == header[b]["shape"]]
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    header[a], header[b] = header[b], header[a]
    return close_safetensors(header, values)


def _state_change(state: dict[str, Any], rng: random.Random, kind: str) -> None:
    """Change named tensors in place, in one of the ways of ``STATES``."""
    floats = [k for k, v in state.items() if torch.is_tensor(v) and v.is_floating_point() and v.numel()]
    key = rng.choice(floats)
    value = state[key].clone()
    if kind == "left out":
        del state[key]
    elif kind == "renamed":
        state[rng.choice([f"{key}_2", f"module.{key}", key.upper(), "", "a.b", f"{key}\x1b[2J"])] = state.pop(key)
    elif kind == "added":
        state[rng.choice(["extra", f"{key}.extra", "backbone.layers.99.peft.x"])] = value
    elif kind == "another shape":
        shapes = [
            value[None],
            value.flatten(),
            value[..., :-1],
            torch.cat([value, value]),
            value.new_zeros(()),
            value[:0],
        ]
        state[key] = rng.choice([s for s in shapes if s.shape != value.shape])
    elif kind == "integers":
        state[key] = (value * 100).to(rng.choice([torch.int64, torch.int8, torch.bool, torch.uint8]))
    elif kind == "complex":
        state[key] = value.to(torch.complex64)
    elif kind == "not a number":
        value.view(-1)[rng.randrange(value.numel())] = rng.choice([float("nan"), float("inf"), -float("inf")])
        state[key] = value
    else:
        raise AssertionError(kind)


STATES = ["left out", "renamed", "added", "another shape", "integers", "complex", "not a number"]


def _states(formats: str, change: Callable[[bytes, random.Random, Callable], bytes]) -> None:
    """Register every way of changing named tensors for a format."""
    for kind in STATES:

        def apply(good, rng, kind=kind):
            return change(good, rng, lambda state: _state_change(state, rng, kind))

        for name in formats.split():
            MUTATORS.setdefault(name, []).append(Mutator(f"a tensor: {kind}", STRUCTURE, apply))


def _in_safetensors(good, rng, change):
    tensors, metadata = _tensors(good)
    change(tensors)
    return _stored(tensors, metadata)


_states("safetensors", _in_safetensors)


@mutator("safetensors", VALUES)
def a_tensor_of_other_values(good, rng):
    tensors, metadata = _tensors(good)
    key = rng.choice(sorted(k for k, v in tensors.items() if v.is_floating_point()))
    tensors[key] = tensors[key] + 0.01
    return _stored(tensors, metadata)


@mutator("adapter")
def description_changed(good, rng):
    """Only in files with a description in JSON."""
    header, values = open_safetensors(good)
    metadata = json.loads(header["__metadata__"]["vpeft"])

    def change(container, key):
        container[key] = other_kind(container[key], rng)

    header["__metadata__"]["vpeft"] = json.dumps(_at_random(metadata, rng, change))
    return close_safetensors(header, values)


@mutator("adapter")
def description_with_a_part_left_out(good, rng):
    header, values = open_safetensors(good)
    metadata = json.loads(header["__metadata__"]["vpeft"])
    header["__metadata__"]["vpeft"] = json.dumps(_at_random(metadata, rng, lambda container, key: container.pop(key)))
    return close_safetensors(header, values)


@mutator("adapter")
def description_that_is_none(good, rng):
    header, values = open_safetensors(good)
    junk = ["", "{", "[]", "null", "[" * 100_000, '{"format":' * 20_000, "1", "{}", '{"format": "vpeft-adapter-99"}']
    header["__metadata__"] = rng.choice([{"vpeft": rng.choice(junk)}, {}, {"other": "x"}])
    return close_safetensors(header, values)


@mutator("adapter")
def methods_out_of_all_bounds(good, rng):
    header, values = open_safetensors(good)
    metadata = json.loads(header["__metadata__"]["vpeft"])
    for method in metadata.get("methods", []):
        key = rng.choice([k for k in method if k != "type"] or ["rank"])
        method[key] = rng.choice([10**9, 0, -1, "8", None, [8], 8.5, True, float("nan"), {"a": 1}, 10**400])
        if rng.random() < 0.3:
            method["type"] = rng.choice(["os.system", "Nothing", "Mona", "", None, 7, "torch.nn.Linear"])
    header["__metadata__"]["vpeft"] = json.dumps(metadata)
    return close_safetensors(header, values)


# Files of torch -----------------------------------------------------------------------------------------------------


def torch_bytes(value: Any, **options: Any) -> bytes:
    """A file of torch with this value."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def torch_value(data: bytes) -> Any:
    """What a file that this process wrote holds."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)


def state_of(loaded: dict[str, Any]) -> dict[str, Any]:
    """The named tensors inside a checkpoint."""
    for key in ("state_dict", "model"):
        if isinstance(loaded.get(key), dict):
            return loaded[key]
    return loaded


def _in_torch(good, rng, change):
    loaded = torch_value(good)
    change(state_of(loaded))
    return torch_bytes(loaded)


_states("torch", _in_torch)


@mutator("torch")
def a_tensor_that_is_none(good, rng):
    loaded = torch_value(good)
    state = state_of(loaded)
    key = rng.choice(sorted(k for k in state if torch.is_tensor(state[k])))
    value = state[key]
    odd = [None, 1.0, "x", value.tolist(), value.numpy(), [value], {"a": value}, value.to("meta"), 10**400]
    odd += [value.flatten()[:1].expand(2**40), value.to_sparse(), torch.nn.Parameter(value[..., :0])]
    state[key] = rng.choice(odd)
    return torch_bytes(loaded)


@mutator("torch", VALUES)
def two_tensors_swapped(good, rng):
    loaded = torch_value(good)
    state = state_of(loaded)
    keys = [k for k in state if torch.is_tensor(state[k]) and state[k].is_floating_point()]
    pairs = [(a, b) for a in keys for b in keys if a < b and state[a].shape == state[b].shape]
    pairs = [(a, b) for a, b in pairs if not torch.equal(state[a], state[b])]
    a, b = rng.choice(pairs)
    state[a], state[b] = state[b], state[a]
    return torch_bytes(loaded)


@mutator("torch")
def another_value_on_top(good, rng):
    loaded = torch_value(good)
    state = state_of(loaded)
    tops = [None, [], {}, 1, "x", [loaded], torch.zeros(3), {"state_dict": None}, {"state_dict": []}, {"a": loaded}]
    tops += [{"state_dict": {}}, {"state_dict": {1: torch.zeros(2)}}, list(state.values()), {"state_dict": [state]}]
    return torch_bytes(rng.choice(tops))


@mutator("checkpoint")
def a_part_of_the_checkpoint_left_out(good, rng):
    loaded = torch_value(good)
    del loaded[rng.choice(sorted(loaded))]
    return torch_bytes(loaded)


@mutator("checkpoint")
def a_part_of_the_checkpoint_of_another_kind(good, rng):
    loaded = torch_value(good)
    key = rng.choice(sorted(loaded))
    loaded[key] = rng.choice([None, [], {}, 7, "x", torch.zeros(2), [{}]])
    return torch_bytes(loaded)


@mutator("checkpoint")
def a_description_inside_changed(good, rng):
    loaded = torch_value(good)
    part = rng.choice(["peft", "peft", "meta"])

    def change(container, key):
        if rng.random() < 0.7:
            container[key] = other_kind(container[key], rng)
        else:
            container.pop(key)

    loaded[part] = _at_random(loaded[part], rng, change)
    return torch_bytes(loaded)


@mutator("resumed")
def a_state_of_the_optimiser_changed(good, rng):
    """Only where training goes on from the file."""
    loaded = torch_value(good)
    optimizer, schedules = loaded["optimizer"], loaded["param_schedulers"]
    kind = rng.choice(["group", "state", "nan", "schedules", "kind", "count"])
    if kind == "group":
        optimizer["param_groups"].pop()
    elif kind == "state":
        del optimizer["state"][next(iter(optimizer["state"]))]
    elif kind == "nan":
        entry = rng.choice(list(optimizer["state"].values()))
        rng.choice([v for v in entry.values() if torch.is_tensor(v) and v.dim()]).view(-1)[0] = float("nan")
    elif kind == "schedules":
        schedules.clear()
    elif kind == "kind":
        optimizer["state"] = rng.choice([None, [], {"a": 1}])
    else:
        loaded["meta"][rng.choice(["epoch", "iter"])] = rng.choice([-1, "x", None, 10**9, 0.5])
    return torch_bytes(loaded)


def _entries(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def _zip(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return out.getvalue()


@mutator("torch npz")
def an_entry_of_the_zip_left_out(good, rng):
    entries = _entries(good)
    # What says nothing of the content may be missing.
    needed = [n for n in entries if n.endswith(("data.pkl", ".npy")) or "/data/" in n]
    del entries[rng.choice(needed)]
    return _zip(entries)


@mutator("torch npz")
def an_entry_of_the_zip_cut_off(good, rng):
    entries = _entries(good)
    name = rng.choice([n for n in entries if len(entries[n]) > 8])
    if name.endswith((".storage_alignment", "version", "serialization_id", "byteorder", "data_hash")):
        return None
    entries[name] = entries[name][: len(entries[name]) // 2]
    return _zip(entries)


@mutator("torch npz", once=True)
def a_bomb_of_zip(good, rng):
    entries = _entries(good)
    name = next(n for n in entries if n.endswith(("data.pkl", ".npy")))
    entries[name] = bytes(600 * 2**20)
    return _zip(entries, zipfile.ZIP_DEFLATED)


@mutator("torch npz", once=True)
def names_of_the_zip_that_lead_out(good, rng):
    return _zip({f"../../../{name}": content for name, content in _entries(good).items()})


@mutator("torch")
def opcodes_that_never_end(good, rng):
    entries = _entries(good)
    name = next(n for n in entries if n.endswith("data.pkl"))
    nested = [b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", b"\x80\x02" + b"(" * 1_000_000 + b"."]
    doubled = b"\x80\x02]q\x00" + b"".join(
        b"]q" + bytes([i + 1]) + b"(h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(60)
    )
    huge = b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x."
    memo = b"\x80\x02N" + b"r" + struct.pack("<I", 2**32 - 1) + b"."
    entries[name] = rng.choice([*nested, doubled + b".", huge, memo])
    return _zip(entries)


# Files of numpy -----------------------------------------------------------------------------------------------------


def _in_npz(good, rng, change):
    with np.load(io.BytesIO(good)) as arrays:
        state = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    change(state)
    out = io.BytesIO()
    np.savez(out, **{key or "arr": value.numpy() for key, value in state.items()})
    return out.getvalue()


_states("npz", _in_npz)


@mutator("npz")
def an_array_header_that_lies(good, rng):
    entries = _entries(good)
    name = rng.choice(list(entries))
    heads = [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<f4', 'shape': (1,), }",
        "__import__('os').system('touch @CANARY@')",
        "[" * 3000,
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<U1000000000', 'fortran_order': False, 'shape': (2,), }",
    ]
    head = rng.choice(heads).encode() + b"\n"
    entries[name] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(64)
    return _zip(entries)


# Images -------------------------------------------------------------------------------------------------------------


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], 8
    while place < len(png):
        size = struct.unpack(">I", png[place : place + 4])[0]
        found.append((png[place + 4 : place + 8], png[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@mutator("png")
def png_of_a_huge_size(good, rng):
    chunks = _chunks(good)
    width, height = rng.choice([(2**31 - 1, 2**31 - 1), (60_000, 60_000), (0, 10), (2**20, 1), (40_000, 2)])
    chunks[0] = (b"IHDR", struct.pack(">II", width, height) + chunks[0][1][8:])
    return _png(chunks)


@mutator("png", once=True)
def png_bomb(good, rng):
    side = 30_000
    packer, parts = zlib.compressobj(9), []
    row = bytes(side + 1)
    for _ in range(side):
        parts.append(packer.compress(row))
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return _png([(b"IHDR", head), (b"IDAT", b"".join(parts) + packer.flush()), (b"IEND", b"")])


@mutator("png", once=True)
def png_bomb_of_words(good, rng):
    chunks = _chunks(good)
    bomb = b"key\x00\x00" + zlib.compress(bytes(200 * 2**20), 9)
    return _png([chunks[0], (b"zTXt", bomb), (b"iCCP", bomb), *chunks[1:]])


@mutator("png")
def png_a_chunk_left_out(good, rng):
    chunks = _chunks(good)
    needed = [i for i, (kind, _) in enumerate(chunks) if kind in (b"IHDR", b"IDAT", b"PLTE")]
    del chunks[rng.choice(needed)]
    return _png(chunks)


@mutator("png")
def png_pixels_cut_off(good, rng):
    chunks = _chunks(good)
    place = next(i for i, (kind, _) in enumerate(chunks) if kind == b"IDAT")
    rows = zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))
    packed = zlib.compress(rows[: rng.randrange(len(rows))])
    chunks = [c for c in chunks if c[0] != b"IDAT"]
    chunks.insert(place, (b"IDAT", packed))
    return _png(chunks)


@mutator("png")
def png_of_an_odd_kind(good, rng):
    chunks = _chunks(good)
    bits, colour = rng.choice([(3, 2), (8, 5), (32, 0), (0, 0), (255, 255), (1, 2), (16, 3)])
    head = chunks[0][1]
    chunks[0] = (b"IHDR", head[:8] + bytes([bits, colour]) + head[10:])
    return _png(chunks)


@mutator("image")
def another_kind_of_file_under_this_name(good, rng):
    kinds = [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(@CANARY@) (w) file closefile\nshowpage\n%%EOF\n",
        b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>',
        b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n",
        b"push graphic-context\nfill 'url(https://127.0.0.1/x.jpg\"|touch \"@CANARY@)'\npop graphic-context\n",
        b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100),
        b"RIFF" + struct.pack("<I", 2**31) + b"WEBPVP8 " + bytes(40),
        b"P6\n999999999 999999999\n255\n" + bytes(30),
        b"P5\n4 4\n65535\n" + bytes(3),
        b"SIMPLE  =                    T" + bytes(80),
        b"\x01\xda\x01\x01\x00\x03" + bytes(600),
        b"\x00\x00\x01\x00\x01\x00" + bytes(60),
        b"FLIF" + bytes(40),
    ]
    return rng.choice(kinds)


@mutator("bmp")
def bmp_of_a_huge_size(good, rng):
    sizes = [(2**31 - 1, 2**31 - 1), (-(2**31), 5), (60_000, 60_000), (0, 0), (12, -(2**31))]
    return good[:18] + struct.pack("<ii", *rng.choice(sizes)) + good[26:]


@mutator("gif")
def gif_of_a_huge_size(good, rng):
    return good[:6] + struct.pack("<HH", 65535, 65535) + good[10:]


@mutator("jpeg")
def jpeg_of_a_huge_size(good, rng):
    place = next(good.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in good)
    size = rng.choice([(65535, 65535), (0, 0), (65500, 65500), (1, 65535)])
    return good[: place + 5] + struct.pack(">HH", *size) + good[place + 9 :]


@mutator("jpeg")
def jpeg_without_its_tables(good, rng):
    marker = rng.choice([b"\xff\xdb", b"\xff\xc4"])
    place = good.index(marker)
    size = struct.unpack(">H", good[place + 2 : place + 4])[0]
    return good[:place] + good[place + 2 + size :]


# Places -------------------------------------------------------------------------------------------------------------


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("x")


#: What may stand in a file's place, by name.
PLACES: dict[str, Callable[[Path], None]] = {
    "a folder in its place": _folder,
    "nothing in its place": lambda path: None,
    "a link to nothing": lambda path: path.symlink_to(path.with_name("gone")),
    "a link to itself": lambda path: path.symlink_to(path),
    "a pipe in its place": lambda path: os.mkfifo(path),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /dev/null": lambda path: path.symlink_to("/dev/null"),
    "a link to /proc/self/mem": lambda path: path.symlink_to("/proc/self/mem"),
}
