"""Reading torch files: everything that checkpoints hold, and nothing that could run code."""

import argparse
import io
import random
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from mmengine.fileio.backends import LocalBackend
from mmengine.infer import BaseInferencer
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner.checkpoint import CheckpointLoader, get_torch_safe_globals
from support.evil import archive, evil_files

from vpeft.compat.torch_load import ALLOWED, Damaged, HoldsObjects, StoredArray, read_torch, sealed_archive
from vpeft.core.backbones.weights.read import read_weights
from vpeft.errors import UserError


def full_checkpoint():
    """What a run of mmengine writes, with what its message hub may hold besides."""
    hub = MessageHub("torch-load")
    for value in (1.0, 0.25, 3.0):
        hub.update_scalar("train/loss", value, 2)
    hub.update_info("iter", 7)
    hub.update_info("last", {"best": np.float64(0.5), "counts": np.arange(6).reshape(2, 3), "f": (np.int64(3),)})
    weights = {"w": torch.arange(3.0), "half": torch.ones(2, dtype=torch.bfloat16)}
    optimizer = {"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]}
    meta = {"epoch": 2, "names": ["é", "b"], "palette": np.array([[1, 2]], ">i2")}
    return {"meta": meta, "state_dict": weights, "message_hub": hub.state_dict(), "optimizer": optimizer}


def test_what_a_run_writes_comes_back(tmp_path, monkeypatch):
    written = full_checkpoint()
    torch.save(written, tmp_path / "a.pth")
    monkeypatch.setattr(HistoryBuffer, "_statistics_methods", {})  # as in a process that has made none
    read = CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"), "cpu")
    buffer, before = (c["message_hub"]["log_scalars"]["train/loss"] for c in (read, written))
    assert type(buffer) is HistoryBuffer
    for one, two in zip(buffer.data, before.data, strict=True):
        assert one.dtype == two.dtype
        assert one.tobytes() == two.tobytes()
    assert (buffer.max_length, buffer.mean()) == (before.max_length, before.mean())
    buffer.update(2.0)
    info = read["message_hub"]["runtime_info"]
    assert info["iter"] == 7
    last = info["last"]
    assert type(last["best"]) is np.float64
    assert last["best"] == 0.5
    assert last["f"] == (3,)
    assert last["counts"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read["meta"]["palette"].tolist() == [[1, 2]]
    assert read["meta"]["palette"].dtype == np.dtype(">i2")
    assert read["optimizer"]["param_groups"] == written["optimizer"]["param_groups"]
    assert torch.equal(read["state_dict"]["half"], torch.ones(2, dtype=torch.bfloat16))
    MessageHub("torch-load-2").load_state_dict(read["message_hub"])


def test_a_process_that_has_logged_nothing_reads_a_run(tmp_path, monkeypatch):
    torch.save(full_checkpoint(), tmp_path / "a.pth")
    monkeypatch.setattr(HistoryBuffer, "_statistics_methods", {})
    assert read_torch(tmp_path / "a.pth")["meta"]["epoch"] == 2


def test_nothing_that_is_allowed_has_a_place_for_attributes():
    for thing, name in ALLOWED:
        assert thing is not getattr, name
        if isinstance(thing, type) and thing is not slice:
            assert not hasattr(object.__new__(thing), "__dict__"), name


def test_no_payload_runs(tmp_path):
    canary = tmp_path / "ran"
    files = evil_files(canary, tmp_path)
    assert len(files) > 100
    path = tmp_path / "evil.pth"
    readers = {
        "torch": lambda: read_torch(path, "cpu"),
        "weights": lambda: read_weights(str(path)),
        "mmengine": lambda: CheckpointLoader.load_checkpoint(str(path), "cpu"),
        "npz": lambda: read_weights(str(path.with_suffix(".npz"))),
        "safetensors": lambda: read_weights(str(path.with_suffix(".safetensors"))),
    }
    for name, data in files.items():
        for suffix in (".pth", ".npz", ".safetensors"):
            path.with_suffix(suffix).write_bytes(data)
        for reader, read in readers.items():
            if name == "not a dictionary" and reader in ("torch", "mmengine"):
                continue
            with pytest.raises(UserError) as error:
                read()
            assert len(str(error.value).splitlines()) == 1, (name, reader)
            assert not canary.exists(), (name, reader)


def test_payloads_run_where_nothing_is_mended(tmp_path):
    """Otherwise the test above would show nothing."""
    ran = 0
    for name, data in evil_files(tmp_path / "ran", tmp_path).items():
        if name.startswith("exec as __setstate__"):
            with torch.serialization.safe_globals(get_torch_safe_globals()), suppress(Exception):
                torch.load(io.BytesIO(data), weights_only=True)
            ran += (tmp_path / "ran").exists()
            (tmp_path / "ran").unlink(missing_ok=True)
    assert ran == 2


def test_a_config_inside_a_checkpoint_is_not_run(tmp_path):
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    torch.save({"meta": {"config": code, "cfg": code}, "state_dict": {"w": torch.ones(1)}}, tmp_path / "a.pth")
    assert "config" not in CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"), "cpu")["meta"]

    class Inferencer(BaseInferencer):
        preprocess_kwargs = forward_kwargs = visualize_kwargs = postprocess_kwargs = set()
        visualize = postprocess = _init_pipeline = None

    with pytest.raises(UserError, match=r"a\.pth: a config inside a checkpoint is code"):
        Inferencer(weights=str(tmp_path / "a.pth"), scope="mmengine")
    assert not (tmp_path / "ran").exists()


def test_addresses_are_read_in_the_same_way(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "evil.pth").write_bytes(evil_files(tmp_path / "ran", tmp_path)["os.mkdir, protocol 2 (archive)"])
    torch.save({"w": torch.ones(1)}, folder / "good.pth")
    with pytest.raises(UserError, match=r"evil\.pth holds objects that only running its code could load"):
        CheckpointLoader.load_checkpoint("https://127.0.0.1:9/evil.pth", "cpu")
    assert CheckpointLoader.load_checkpoint("https://127.0.0.1:9/good.pth", "cpu")["w"] == 1
    assert not (tmp_path / "ran").exists()


def test_arguments_are_left_out():
    out = io.BytesIO()
    torch.save({"args": argparse.Namespace(lr=1.0), "w": torch.ones(1)}, out)
    out.seek(0)
    assert read_torch(out)["w"] == 1


def test_every_flipped_bit_of_an_archive_is_seen(tmp_path):
    """Within its members; between them an archive holds padding and dates that nobody reads."""
    out = io.BytesIO()
    torch.save({"w": torch.arange(4.0), "n": 3}, out)
    data = out.getvalue()
    with zipfile.ZipFile(out) as file:
        places = {m.filename: data.index(file.read(m), m.header_offset) for m in file.infolist() if m.file_size > 8}
        sizes = {m.filename: m.file_size for m in file.infolist()}
    for name, place in places.items():
        for at in range(place, place + sizes[name], 7):
            changed = bytearray(data)
            changed[at] ^= 1 << (at % 8)
            with pytest.raises(Damaged, match="CRC-32"):
                read_torch(io.BytesIO(bytes(changed)))


def test_every_flipped_bit_of_a_file_that_a_run_writes_is_seen(tmp_path):
    """Here padding and dates too: the sum is over every byte."""
    out = io.BytesIO()
    torch.save({"w": torch.arange(4.0), "n": 3}, out)
    LocalBackend().put(out.getvalue(), str(tmp_path / "a.pth"))
    data = (tmp_path / "a.pth").read_bytes()
    assert len(data) == len(out.getvalue()) + 77
    assert torch.equal(read_torch(tmp_path / "a.pth")["w"], torch.load(io.BytesIO(data))["w"])  # by torch itself too
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            read_torch(io.BytesIO(changed))
    for changed in (data[:-1], data + b"0", data[:-77], data.replace(b"vpeft sha256", b"other sha256")):
        with pytest.raises(Damaged):
            read_torch(io.BytesIO(changed))
    assert sealed_archive(b"no archive") == b"no archive"
    assert sealed_archive(data) == data


def test_changed_pickles_end_in_one_kind_of_error():
    """Bytes of a whole checkpoint's pickle, changed at random under right checksums."""
    out = io.BytesIO()
    torch.save(full_checkpoint(), out)
    with zipfile.ZipFile(out) as file:
        members = {m.split("/", 1)[1]: file.read(m) for m in file.namelist()}
    data, draw, refused = members.pop("data.pkl"), random.Random(0), 0
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            read_torch(io.BytesIO(archive(bytes(changed), **members)))
        except (Damaged, HoldsObjects):
            refused += 1
    assert refused > 150


def test_an_array_without_values_is_refused():
    array = b"\x80\x02}X\x01\x00\x00\x00acnumpy._core.multiarray\n_reconstruct\n)Rs."
    with pytest.raises(Damaged, match="without values"):
        read_torch(io.BytesIO(archive(array)))
    assert StoredArray().value is None
