"""Stored predictions: every way in which the file may be broken."""

import json

import pytest
import torch
from safetensors.torch import save_file

from vpeft.core.trained.logits import Logits, read_logits, write_logits
from vpeft.errors import UserError

GOOD = {"format": "vpeft-logits-2", "samples": ["a", "b"], "data": {}, "name": "x", "kind": "logits"}
SCORES, LABELS = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])


def test_what_is_written_is_read(tmp_path):
    path = write_logits(Logits(SCORES, LABELS, ["a", "b"], {"task": "t"}, "x"), tmp_path / "l.safetensors")
    read = read_logits(path)
    assert read.accuracy == 100
    assert (read.samples, read.data, read.name, read.kind) == (["a", "b"], {"task": "t"}, "x", "logits")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"logits": SCORES}, GOOD, "no scores"),
        ({"logits": SCORES[0], "labels": LABELS}, GOOD, "no scores"),
        ({"logits": SCORES, "labels": LABELS.float()}, GOOD, "no scores"),
        ({"logits": SCORES.long(), "labels": LABELS}, GOOD, "NaN or infinite"),
        ({"logits": SCORES / 0, "labels": LABELS}, GOOD, "NaN or infinite"),
        ({"logits": SCORES, "labels": LABELS + 1}, GOOD, "outside of its 2 classes"),
        ({"logits": SCORES, "labels": LABELS - 1}, GOOD, "outside of its 2 classes"),
        ({"logits": SCORES, "labels": LABELS[:1]}, GOOD, "2 scores, 1 labels, 2 samples"),
        ({"logits": SCORES, "labels": LABELS}, {**GOOD, "samples": None}, "describes no stored logits"),
        ({"logits": SCORES, "labels": LABELS}, {"format": "vpeft-logits-2"}, "describes no stored logits"),
        ({"logits": SCORES, "labels": LABELS}, {**GOOD, "format": "vpeft-logits-3"}, "holds no stored logits"),
        ({"logits": SCORES, "labels": LABELS}, GOOD, "was changed: its SHA-256"),
        ({"logits": SCORES, "labels": LABELS}, [1], "holds no stored logits"),
    ],
)
def test_broken_files(tmp_path, tensors, metadata, message):
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    save_file(tensors, tmp_path / "l.safetensors", {"vpeft": json.dumps(metadata)})
    with pytest.raises(UserError, match=message) as error:
        read_logits(tmp_path / "l.safetensors")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "\u0000"])
def test_broken_descriptions(tmp_path, text):
    save_file({"logits": SCORES}, tmp_path / "l.safetensors", {"vpeft": text})
    with pytest.raises(UserError, match="truncated or no safetensors file"):
        read_logits(tmp_path / "l.safetensors")
