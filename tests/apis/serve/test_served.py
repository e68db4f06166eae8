"""Adapters of one base answer together as each does alone."""

import numpy as np
import pytest
import torch
from mmengine import Config

import vpeft
from vpeft.apis.serve.batches import Batches, Busy
from vpeft.apis.serve.served import Asked, Served
from vpeft.apis.serve.start import named_runs
from vpeft.core.models.build import build_model
from vpeft.core.trained.record import run_record
from vpeft.errors import UserError


def images(count):
    return [np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8) for i in range(count)]


def alone(runs, name, image):
    return vpeft.load(runs[name], device="cpu").predict(image[..., ::-1])[0]


def ask(served, names):
    return [
        Asked(n, f"{i}.png", served.read(n, image)) for i, (n, image) in enumerate(zip(names, images(9), strict=False))
    ]


def same(found, wanted):
    assert found.labels == wanted.labels
    assert found.classes == wanted.classes
    torch.testing.assert_close(found.all_scores, wanted.all_scores, rtol=1e-4, atol=1e-6)


def test_a_mixed_batch_is_one_pass(served, runs, monkeypatch):
    names = ["photos", "digits", "photos", "digits", "photos"]
    passes = []
    plain = type(served.first.model).test_step
    monkeypatch.setattr(type(served.first.model), "test_step", lambda *args: passes.append(1) or plain(*args))
    found = served.answer(ask(served, names))
    assert len(passes) == 1
    monkeypatch.undo()
    assert [one.name for one in found] == [f"{i}.png" for i in range(5)]
    for one, name, image in zip(found, names, images(5), strict=True):
        same(one, alone(runs, name, image))
        assert len(one.all_scores) == {"digits": 10, "photos": 8}[name]


def test_what_cannot_be_mixed_has_passes_of_its_own(runs):
    served = Served(runs, device="cpu")
    names = ["tissue", "digits", "tissue", "photos"]
    found = served.answer(ask(served, names))
    for one, name, image in zip(found, names, images(4), strict=True):
        same(one, alone(runs, name, image))


def test_what_was_refused_once_leaves_the_others_mixed(runs, monkeypatch):
    """BitFit trains the base, which is one for a pass: the two others go on sharing theirs."""
    served = Served(runs, device="cpu")
    names = ["tissue", "digits", "photos", "digits"]
    passes = []
    plain = Served._pass
    monkeypatch.setattr(
        Served, "_pass", lambda self, asked: passes.append({one.adapter for one in asked}) or plain(self, asked)
    )
    for _ in range(2):
        passes.clear()
        served.answer(ask(served, names))
        assert sorted(map(sorted, passes)) == [["digits", "photos"], ["tissue"]]
    assert all("tissue" in one for one in served.refused)
    tried = len(served.refused)
    served.answer(ask(served, names))
    assert len(served.refused) == tried  # what is known is not tried again


def test_an_image_that_cannot_be_answered_forbids_no_mixing(served, monkeypatch):
    before = list(served.refused)
    with monkeypatch.context() as patch:
        patch.setattr(Served, "_pass", lambda self, asked: (_ for _ in ()).throw(UserError("a broken image")))
        with pytest.raises(UserError, match="a broken image"):
            served.answer(ask(served, ["photos", "digits"]))
    assert served.refused == before


def test_what_is_not_served_together(runs, tmp_path):
    with pytest.raises(UserError, match="'dogs' is none of those served: digits"):
        Served({"digits": runs["digits"]}, device="cpu").need("dogs")
    other = tmp_path / "x.safetensors"
    other.write_bytes((runs["digits"] / "adapter.safetensors").read_bytes()[:-8])
    with pytest.raises(UserError, match=r"x\.safetensors"):
        Served({"digits": runs["digits"], "x": other}, device="cpu")


def test_another_head_is_not_answered_by_the_first_ones(runs, tmp_path):
    several = {"type": "MultiLabelLinearClsHead", "num_classes": 8, "in_channels": 64, "thr": 0.5}
    cfg = Config.fromfile(next(runs["photos"].glob("*.py")))
    cfg.model.head = {**several, "loss": {"type": "CrossEntropyLoss", "use_sigmoid": True}}
    model = build_model(cfg)
    model.init_weights()
    vpeft.save_adapter(model, tmp_path / "adapter.safetensors", run=run_record(cfg))
    with pytest.raises(UserError, match=r"has another head than .*digits.*serve it by itself"):
        Served({"digits": runs["digits"], "several": tmp_path / "adapter.safetensors"}, device="cpu")


def test_names_of_runs(runs, tmp_path):
    folder = runs["digits"]
    assert named_runs([str(folder), f"mine={folder}"]) == {"digits": str(folder), "mine": str(folder)}
    assert list(named_runs([str(folder / "adapter.safetensors")])) == ["digits"]
    with pytest.raises(UserError, match="the name 'digits' is taken; say another, as NAME="):
        named_runs([str(folder), str(folder)])


class Slow:
    """Answers when it is let."""

    def __init__(self, gate):
        self.gate, self.sizes = gate, []

    def answer(self, asked):
        self.gate.wait(60)
        self.sizes.append(len(asked))
        if any(one.name == "bad" for one in asked):
            raise ValueError("bad")
        return [one.name for one in asked]


def test_questions_are_answered_in_batches_and_one_fault_is_ones_own():
    import threading

    gate = threading.Event()
    slow = Slow(gate)
    batches = Batches(slow, size=4, wait=0.5, waiting=5)
    answers = [batches.ask(Asked("a", name, None)) for name in ("a", "bad", "b", "c")]
    while batches._queue.qsize():  # taken by the thread, which waits at the gate
        pass
    answers += [batches.ask(Asked("a", f"{i}", None)) for i in range(5)]
    with pytest.raises(Busy):
        batches.ask(Asked("a", "too many", None))
    gate.set()
    assert [answers[i].result(60) for i in (0, 2, 3, 4, 8)] == ["a", "b", "c", "0", "4"]
    with pytest.raises(ValueError, match="bad"):
        answers[1].result(60)
    assert slow.sizes[0] == 4
    batches.close()
    assert not batches.alive
