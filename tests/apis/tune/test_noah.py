"""NOAH's space, search and stages."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.hosts import build, perturb, tokens

import vpeft
from vpeft.algorithms.unified.noah_space import KINDS, quarters
from vpeft.apis.config.load import load_config
from vpeft.apis.tune.noah import _population
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.contract.subnets import find_space

ROOT = Path(__file__).parents[3]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
HOST = "mmpretrain.VisionTransformer"
SUPERNET = {"type": "NOAH", "prompts": 4, "ranks": 4, "widths": 4}


def supernet(limit=None):
    model = perturb(vpeft.attach(build(HOST), SUPERNET))
    return model, space_of(model, choices=(1, 2, 4), depths=(1, 2, 3), limit=limit)


def space_of(model, **settings):
    return find_space(get_adaptation(model).on_host.values(), {"depth_prob": 0.4, "size_prob": 0.2, **settings})


def mutated(space, subnet, seed, depth_prob, size_prob):
    space.settings = {"depth_prob": depth_prob, "size_prob": size_prob}
    return space.mutate(subnet, random.Random(seed))


def test_a_subnet_of_the_supernet_is_the_method_with_its_sizes():
    """The first rows, ranks and units of the shared weights."""
    model, space = supernet()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    subnet = ((2, 0, 0), (4, 1, 0), (1, 2, 4))
    space.apply(subnet)
    out = tokens(model, x)
    alone = build(HOST)
    vpeft.attach(alone, {"type": "NOAH", **dict(zip(KINDS.values(), subnet, strict=True))})
    state = model.state_dict()
    with torch.no_grad():
        for key, param in alone.named_parameters():
            if "peft" in key:
                param.copy_(state[key][tuple(slice(n) for n in param.shape)])
    torch.testing.assert_close(tokens(alone, x), out, rtol=1e-10, atol=1e-10)
    assert space.count(subnet) == sum(p.numel() for k, p in alone.named_parameters() if "peft" in k)
    space.apply(((4,) * 3,) * 3)
    assert not torch.equal(tokens(model, x), out)


def test_draws_keep_to_the_space():
    _, space = supernet()
    rng = random.Random(0)
    drawn = [space.draw(rng) for _ in range(300)]
    depths = {sum(size > 0 for size in sizes) for subnet in drawn for sizes in subnet}
    assert depths == {1, 2, 3}
    assert {size for subnet in drawn for sizes in subnet for size in sizes} == {0, 1, 2, 4}
    assert all(sizes == tuple(sorted(sizes, key=bool, reverse=True)) for subnet in drawn for sizes in subnet)


def test_mutation_and_crossover():
    _, space = supernet()
    a, b = ((1, 2, 0), (4, 0, 0), (1, 1, 1)), ((2, 0, 0), (1, 2, 4), (4, 4, 0))
    assert mutated(space, a, 0, 0.0, 0.0) == a
    for seed in range(50):
        longer = mutated(space, a, seed, 1.0, 0.0)
        for old, new in zip(a, longer, strict=True):
            kept = min(sum(map(bool, old)), sum(map(bool, new)))
            assert new[:kept] == old[:kept]
        resized = mutated(space, a, seed, 0.0, 1.0)
        assert [[bool(s) for s in sizes] for sizes in resized] == [[bool(s) for s in sizes] for sizes in a]
        child = space.cross(a, b, random.Random(seed))
        assert all(sizes in pair for sizes, pair in zip(child, zip(a, b, strict=True), strict=True))


def test_population_keeps_the_limit_and_repeats_nothing():
    _, space = supernet(limit=2000)
    settings = load_config(ROOT / "configs/mini/noah_supernet_nano_vit.py").noah
    parents = _population(space, [], settings, random.Random(0))[:4]
    population = _population(space, parents, settings, random.Random(1))
    assert len(population) == len(set(population)) == settings.population
    assert all(0 < space.count(subnet) <= 2000 for subnet in population)
    assert population == _population(space, parents, settings, random.Random(1))
    space.limit = 10
    with pytest.raises(vpeft.UserError, match=r"raise noah\.limit"):
        _population(space, [], settings, random.Random(0))


def test_quarters():
    assert quarters(12) == (3, 6, 9, 12)
    assert quarters(3) == (1, 2, 3)


def test_wrong_supernets_are_refused():
    model = vpeft.attach(build(HOST), "LoRA")
    with pytest.raises(vpeft.UserError, match=r"LoRA: no subnets to search; methods that have some are GLoRA, NOAH\."):
        space_of(model, choices=(1, 2, 4), depths=(1,))
    model, _ = supernet()
    with pytest.raises(vpeft.UserError, match="largest choice, 10"):
        space_of(model, choices=(1, 10), depths=(1,))
    with pytest.raises(vpeft.UserError, match="from 1 to 3"):
        space_of(model, choices=(1, 4), depths=(1, 9))


def command(work_dir, task="digits"):
    options = ["train_cfg.max_epochs=1", "noah.epochs=3", "noah.population=6", "noah.mutations=2", "noah.crossovers=2"]
    options += ["noah.parents=2", "train_dataloader.batch_size=200", "log_level=ERROR"]
    args = ["--task", task, "--seed", "3", "--work-dir", str(work_dir), "--cfg-options", *options]
    return [sys.executable, "tools/noah.py", "configs/mini/noah_supernet_nano_vit.py", *args]


def accuracies(folder):
    file = folder / "search" / "search.json"
    return json.loads(file.read_text())["accuracy"] if file.exists() else {}


@pytest.mark.slow
def test_killed_in_the_search_and_started_again_finds_the_same(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    out = subprocess.run(command(whole), cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=600)
    assert out.returncode == 0, out.stderr[-2000:]
    process = subprocess.Popen(command(killed), cwd=ROOT, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 300
    while len(accuracies(killed)) < 3:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.time() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    seen = accuracies(killed)
    assert len(seen) < len(accuracies(whole))
    assert not (killed / "subnet.py").exists()
    again = subprocess.run(command(killed), cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr[-2000:]
    assert accuracies(killed) == accuracies(whole)
    assert seen.items() <= accuracies(killed).items()
    tail = [(f / "subnet.py").read_text().split("model = ")[1] for f in (whole, killed)]
    assert tail[0] == tail[1]
    results = [json.loads((f / "subnet" / "result.json").read_text()) for f in (whole, killed)]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["parameters"]["trainable_without_head"] <= 6000
    other = subprocess.run(command(killed, "tissue"), cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=600)
    assert other.returncode == 2
    assert "Traceback" not in other.stderr
