"""The shipped adapters: they answer as the index says, and nothing else is opened in their place."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import vpeft
from vpeft.apis.commands.words.look.list import main as list_main
from vpeft.apis.commands.words.study.make_zoo import main as make_main
from vpeft.apis.zoo import make, zoo
from vpeft.core.datasets.embedded.mini import CLASSES, mini_split
from vpeft.core.trained.code import git_hash
from vpeft.errors import UserError

INDEX = zoo.zoo_index()


@pytest.mark.parametrize("name", ["lora_nano_vit_digits", "bitfit_nano_vit_tissue", "lora_nano_swin_digits"])
def test_it_answers_as_the_index_says(name):
    said = INDEX[name]
    run = vpeft.from_zoo(name, device="cpu")
    images, labels = mini_split(said["task"], "test")
    found = run.predict(list(images), batch_size=256)
    right = sum(one.labels[0] == label for one, label in zip(found, labels, strict=True))
    assert len(labels) == said["images"]
    assert abs(right - said["accuracy"] * len(labels)) <= 1  # an image on the edge, on another processor
    assert run.classes == CLASSES[said["task"]]
    assert run.preprocessing["mean"] == [127.5] * 3
    assert found[0].classes[0] == run.classes[found[0].labels[0]]


@pytest.mark.parametrize("name", sorted(INDEX))
def test_every_one_fits_its_method_and_its_base(name):
    """A method whose settings or base have changed since has its adapters made anew: vpeft make-zoo."""
    assert vpeft.from_zoo(name, device="cpu").classes == CLASSES[INDEX[name]["task"]]


def test_a_picture_of_another_size_is_read(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)).save(tmp_path / "a.png")
    (found,) = vpeft.from_zoo("lora_nano_vit_digits").predict(tmp_path / "a.png")
    assert len(found.all_scores) == 10
    torch.testing.assert_close(found.all_scores.sum(), torch.tensor(1.0))


def test_the_index_is_that_of_the_files():
    files = {file.stem for file in zoo.ADAPTERS.glob("*.safetensors")}
    assert files == set(INDEX) == set(make.NAMES)
    for name, said in INDEX.items():
        file = zoo.zoo_file(name)  # which compares the sums
        assert file.stat().st_size == said["bytes"]
        assert 0.4 < said["accuracy"] < 1
    assert sum(said["bytes"] for said in INDEX.values()) < 2_000_000


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match=r"did you mean 'lora_nano_vit_digits'\?.*vpeft list zoo"):
        vpeft.from_zoo("lora_nano_vit_digit")


def test_another_file_in_its_place_is_refused(tmp_path, monkeypatch):
    name = "bitfit_nano_vit_tissue"
    monkeypatch.setattr(zoo, "ADAPTERS", tmp_path)
    zoo.zoo_index.cache_clear()
    monkeypatch.setattr(zoo, "zoo_index", lambda: INDEX)
    with pytest.raises(UserError, match=r"tissue\.safetensors is missing: reinstall vpeft"):
        vpeft.from_zoo(name)
    whole = (zoo.Path(zoo.__file__).parent / "adapters" / f"{name}.safetensors").read_bytes()
    (tmp_path / f"{name}.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"has the SHA-256 checksum .* where index\.json says"):
        vpeft.from_zoo(name)


def test_they_are_listed(capsys):
    list_main(["zoo", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == INDEX.keys()
    assert rows["lora_nano_vit_digits"]["accuracy"] == f"{100 * INDEX['lora_nano_vit_digits']['accuracy']:.1f} %"
    assert rows["lora_nano_vit_digits"]["sha256"] == INDEX["lora_nano_vit_digits"]["sha256"]
    list_main(["zoo"])
    assert "lora_nano_swin_digits" in capsys.readouterr().out


def test_it_is_made_of_runs(tmp_path, monkeypatch, capsys):
    """The run itself is the benchmark's, and tested there."""
    name = "lora_nano_vit_digits"

    class Done(make.RunJob):
        def run(self):
            assert (self.method, self.backbone, self.task, self.suite, self.seed) == (
                "lora",
                "nano_vit",
                "digits",
                "mini",
                0,
            )
            assert self.config.endswith("configs/mini/lora_nano_vit.py")
            assert self.load().task == "digits"
            shutil.copyfile(zoo.zoo_file(name), tmp_path / "adapter.safetensors")

        def result(self):
            return {
                "checkpoint": "adapter.safetensors",
                "methods": [{"type": "LoRA"}],
                "parameters": {"trainable_without_head": 12288, "head": 650},
                "main_metric": {"name": "accuracy/top1", "value": 0.5},
                "git": git_hash(),
            }

    monkeypatch.setattr(make, "RunJob", Done)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/index.json").write_text(json.dumps({"bitfit_nano_vit_tissue": {"seed": 3}}))
    make_main([name, "--out", str(tmp_path / "out"), "--runs", str(tmp_path)])
    assert f"{name}: 50.0 % of 797 test images" in capsys.readouterr().out
    made = json.loads((tmp_path / "out/index.json").read_text())
    assert list(made) == [name, "bitfit_nano_vit_tissue"]  # what was not asked for keeps its line
    assert made["bitfit_nano_vit_tissue"] == {"seed": 3}
    assert {key: made[name][key] for key in ("sha256", "bytes", "images", "config")} == {
        key: INDEX[name][key] for key in ("sha256", "bytes", "images", "config")
    }
    with pytest.raises(UserError, match="no adapter 'lora_nano_vit_digts' in the zoo: did you mean"):
        make_main(["lora_nano_vit_digts", "--out", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
