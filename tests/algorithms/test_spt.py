"""SPT: sensitivities, who gets the budget, and what is trained then."""

import pytest
import torch
import torch.nn.functional as F
from support.hosts import build, perturb, tokens
from support.plain_spt import PlainSPTAdapter, PlainSPTLoRA
from support.plain_vit import HOST, SIZE, images

import vpeft
from vpeft.algorithms.unified.spt_budget import BudgetPart, allotted
from vpeft.core.adaptation.find import get_adaptation

TIMM, SWIN = "timm.VisionTransformer", "mmpretrain.SwinTransformer"


def batches(size=(32, 32)):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(3, 3, *size, dtype=torch.float64, generator=generator), torch.tensor(labels))
        for labels in ([0, 1, 1], [2, 0, 1])
    ]


def spent(scores, parts, slots, alpha, beta):
    """The budget by its words: rank by rank, what the first tau cost, and the largest tau that is paid for."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    owner = [number for number, part in enumerate(parts) for _ in range(part.size)]
    best = None
    for tau in range(len(scores) + 1):
        count = [sum(owner[place] == number for place in order[:tau]) for number in range(len(parts))]
        modules = [0 < p.module <= p.size and c >= p.module / alpha for p, c in zip(parts, count, strict=True)]
        whole = [not p.module and c >= p.size / beta for p, c in zip(parts, count, strict=True)]
        costs = [p.module if m else p.size if w else c for p, m, w, c in zip(parts, modules, whole, count, strict=True)]
        if sum(costs) > slots:
            break
        entries = {p for p in order[:tau] if not modules[owner[p]]}
        best = modules, entries | {p for p in range(len(scores)) if whole[owner[p]]}, sum(costs)
    modules, entries, cost = best
    rest = [place for place in order if place not in entries and not modules[owner[place]]]
    return modules, sorted(entries | set(rest[: slots - cost]))


@pytest.mark.parametrize("slots", [1, 10, 40, 60, 92])
@pytest.mark.parametrize("seed", range(4))
def test_the_budget_goes_to_the_most_sensitive(slots, seed):
    parts = [
        BudgetPart(64, 20, 8),
        BudgetPart(8, 0, 1),
        BudgetPart(64, 20, 8),
        BudgetPart(8, 0, 1),
        BudgetPart(32, 33, 4),
        BudgetPart(4, 0, 1),
    ]
    generator = torch.Generator().manual_seed(seed)
    strength = torch.rand(6, generator=generator).repeat_interleave(torch.tensor([part.size for part in parts]))
    scores = torch.rand(180, generator=generator, dtype=torch.float64) ** 2 * strength
    modules, entries = allotted(scores, parts, slots, alpha=4.0, beta=3.0)
    assert (modules, entries.tolist()) == spent(scores.tolist(), parts, slots, alpha=4.0, beta=3.0)
    assert sum(part.module for part, module in zip(parts, modules, strict=True) if module) + len(entries) == slots


def test_sensitivity_is_the_sum_of_squared_gradients_of_each_batch():
    plain = build(TIMM, drop_path_rate=0.0).train()
    sums = {key: torch.zeros_like(param) for key, param in plain.named_parameters()}
    for x, y in batches():
        plain.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        for key, param in plain.named_parameters():
            sums[key] += param.grad**2
    names, scores = [], []
    for i in range(len(plain.blocks)):
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            weight, bias = (sums[f"blocks.{i}.{name}.{p}"] for p in ("weight", "bias"))
            for w, b in zip(*(t.chunk(3 if name == "attn.qkv" else 1) for t in (weight, bias)), strict=True):
                names += [(w.shape, True), (b.shape, False)]
                scores += [w.flatten(), b]
    for norm in [f"blocks.{i}.norm{j}" for i in range(len(plain.blocks)) for j in (1, 2)] + ["norm"]:
        for p in ("weight", "bias"):
            names.append((sums[f"{norm}.{p}"].shape, False))
            scores.append(sums[f"{norm}.{p}"])
    parts = [BudgetPart(shape.numel(), sum(shape) if matrix else 0, 1) for shape, matrix in names]  # rank 1
    model = vpeft.attach(build(TIMM, drop_path_rate=0.0), {"type": "SPT-LoRA", "budget": 3000, "rank": 1})
    slots = 3000 - model.cls_token.numel()
    modules, entries = allotted(torch.cat(scores).float(), parts, slots, 10.0, 5.0)
    vpeft.learn(model, batches())
    budget = model.peft["spt_lora"]["budget"]
    assert budget.structured.tolist() == modules
    assert 0 < sum(modules) < 18
    assert torch.equal(budget.index[budget.index >= 0], entries)
    assert (budget.index < 0).sum() + len(entries) == slots


def choose(model):
    """Give the budget away by sensitivities that differ from part to part."""
    (methods,) = model.peft.values()
    sizes = torch.tensor([part.size for part in methods["budget"].parts])
    generator = torch.Generator().manual_seed(3)
    strength = torch.rand(len(sizes), generator=generator).repeat_interleave(sizes)
    methods["budget"].allot(torch.rand(int(sizes.sum()), generator=generator) * strength, 10.0, 5.0)
    assert 0 < methods["budget"].structured.sum() < (sizes > 1000).sum()


@pytest.mark.parametrize(("name", "plain"), [("SPT-LoRA", PlainSPTLoRA), ("SPT-Adapter", PlainSPTAdapter)])
def test_equation_with_modules(name, plain):
    model = build(HOST, img_size=SIZE, drop_path_rate=0.0)
    vpeft.attach(model, {"type": name, "budget": 4000, "rank": 2})
    x, start = images(), tokens(model, images())
    choose(model)
    assert torch.equal(tokens(model, x), start)
    perturb(model)
    state = model.state_dict()
    expected = plain(state, rank=2)
    sites = {key.split(".", 2)[2] for key, _, _ in expected.modules}
    assert sites == {"attn.qkv", "attn.proj", "ffn.layers.0.0", "ffn.layers.1"}
    torch.testing.assert_close(tokens(model, x), expected(x), rtol=1e-9, atol=1e-10)
    assert get_adaptation(model).methods[name.lower().replace("-", "_")].count(get_adaptation(model).host) == 4000
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 4000


@pytest.mark.parametrize("host", [HOST, SWIN])
def test_it_merges_after_the_selection_and_is_stored(host, tmp_path):
    model = vpeft.attach(build(host, drop_path_rate=0.0), {"type": "SPT-LoRA", "budget": 2500, "rank": 1})
    choose(model)
    perturb(model)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    out = tokens(model, x)
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    other = build(host, drop_path_rate=0.0)
    vpeft.load_adapter(other, tmp_path / "a.safetensors")
    torch.testing.assert_close(tokens(other, x), out, rtol=1e-5, atol=1e-5)
    vpeft.merge(model)
    torch.testing.assert_close(tokens(model, x), out, rtol=1e-10, atol=1e-10)


def test_entries_take_the_steps_of_masked_gradients():
    """Three Adam steps on the budget are those on the base's own tensors with all other gradients set to zero."""
    masked, sparse = build(TIMM, drop_path_rate=0.0), build(TIMM, drop_path_rate=0.0)
    # A module of 1024 numbers would need more of the most sensitive ones than there are.
    vpeft.attach(sparse, {"type": "SPT-LoRA", "budget": 900, "alpha": 1.0, "beta": 2.0})
    budget = sparse.peft["spt_lora"]["budget"]
    scores = torch.rand(budget.ends[-1], generator=torch.Generator().manual_seed(0))
    scores[-896:] += 0.1  # norms
    budget.allot(scores, 1.0, 2.0)
    assert not budget.structured.any()
    with torch.no_grad():
        budget.values.fill_(1.0)
    vpeft.merge(sparse)
    merged = {key: value.clone() for key, value in vpeft.plain_state_dict(sparse).items()}
    vpeft.unmerge(sparse)
    budget.reset_parameters()
    keep = {key: (merged[key] - value).abs() > 0.5 for key, value in masked.state_dict().items()} | {
        "cls_token": torch.tensor(True)
    }
    assert sum(int(mask.sum()) for mask in keep.values()) == 900 - masked.cls_token.numel() + 1
    assert keep["norm.weight"].any()
    assert keep["blocks.0.norm1.weight"].any()
    adam = [
        torch.optim.Adam([p for p in m.parameters() if p.requires_grad], lr=1e-2, eps=1e-4) for m in (masked, sparse)
    ]
    x = batches()[1][0]
    for _ in range(3):
        for m, optimiser in zip((masked, sparse), adam, strict=True):
            optimiser.zero_grad()
            tokens(m, x).square().sum().backward()
            for key, param in m.named_parameters() if m is masked else ():
                param.grad = None if param.grad is None else param.grad * keep[key]
            optimiser.step()
    vpeft.merge(sparse)
    plain = vpeft.plain_state_dict(sparse)
    for key, value in masked.state_dict().items():
        torch.testing.assert_close(plain[key], value, rtol=1e-9, atol=1e-11)


def test_a_budget_is_in_millions_or_a_count():
    host = get_adaptation(vpeft.attach(build(HOST), "SPT-LoRA")).host
    from vpeft.core.contract.build import build_method

    counts = [build_method({"type": "SPT-LoRA", "budget": b}).count(host) for b in (0.43, 1, 50_000, 1e-3)]
    assert counts == [430_000, 1_000_000, 50_000, 1000]
    for budget in (3, 0.00005):
        with pytest.raises(vpeft.UserError, match=r"SPT-LoRA: budget=.* numbers; of this .* from 65 to "):
            vpeft.attach(build(HOST), {"type": "SPT-LoRA", "budget": budget})
