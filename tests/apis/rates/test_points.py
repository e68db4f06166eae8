"""Which settings are tried: the same number for every method, in equal factors, around the best."""

from itertools import pairwise
from pathlib import Path

import pytest

from vpeft import UserError
from vpeft.apis.rates.points import RateBudget, RateSpace, between
from vpeft.core.contract.search_space import COMMON, LOW_LR, Range, at_end, size_of_space
from vpeft.registry import PEFT_METHODS

ROOT = Path(__file__).parents[3]


def space(method, host="nano_vit", **options):
    return RateSpace.of(str(ROOT / f"configs/mini/{method}_{host}.py"), options, RateBudget())


def test_every_method_has_as_many_rates_in_factors_below_two():
    for name, cls in PEFT_METHODS.module_dict.items():
        rates = cls.search_space()["lr"].steps()
        assert len(rates) == 13, name
        assert all(1.7 < b / a < 1.85 for a, b in pairwise(rates)), name
    assert (LOW_LR.high, COMMON["lr"].high) == (1e-2, 1e-1)


def test_rates_come_first_then_those_beside_the_best_and_sizes_there():
    lora = space("lora")
    assert (lora.size, lora.own, lora.others) == ("rank", 8, [4, 16, 2])
    assert [point["lr"] for point in lora.first()] == COMMON["lr"].steps()[::2] == lora.rates
    assert len(lora.rates) == 7
    assert {point["rank"] for point in lora.first()} == {8}
    assert lora.second(3.16e-3, 4) == [{"lr": lr, "rank": 8} for lr in (1.78e-3, 5.62e-3)]
    assert lora.second(1e-1, 4) == [{"lr": lr, "rank": 8} for lr in (4.64e-2, 6.81e-2)]  # at an end
    assert lora.second(3.16e-3, 1) == [{"lr": 1.78e-3, "rank": 8}]
    assert lora.second(3.16e-3, 0) == []
    tried = [*lora.rates, 1.78e-3, 5.62e-3]
    order = [(5.62e-3, 4), (5.62e-3, 16), (3.16e-3, 4), (3.16e-3, 16), (1e-2, 4), (1e-2, 16)]
    for left in (2, 6):
        assert [(p["lr"], p["rank"]) for p in lora.third(tried, 5.62e-3, left)] == order[:left]
    assert lora.third(tried, 5.62e-3, 8)[6:] == [{"lr": lr, "rank": 8} for lr in (4.21e-3, 7.5e-3)]


@pytest.mark.parametrize(("trials", "every"), [(5, 6), (6, 4), (7, 3), (8, 3), (9, 2), (11, 2), (15, 1), (19, 1)])
def test_first_rates_are_as_fine_as_the_trials_allow(trials, every):
    for method, declared in (("bitfit", COMMON["lr"]), ("full", LOW_LR)):
        config = str(ROOT / f"configs/mini/{method}_nano_vit.py")
        assert RateSpace.of(config, {}, RateBudget(trials)).rates == declared.steps()[::every]
    with pytest.raises(UserError, match="trials=2 is less than the 3 rates"):
        RateSpace.of(config, {}, RateBudget(2))


def test_a_method_without_a_size_has_rates_between():
    bitfit = space("bitfit")
    assert bitfit.size is None
    tried = [*bitfit.rates, *(point["lr"] for point in bitfit.second(1e-2, 2))]
    assert tried[7:] == [5.62e-3, 1.78e-2]
    rates = [point["lr"] for point in bitfit.third(tried, 1e-2, 2)]
    assert len({*rates, *tried}) == 11
    assert 5.62e-3 < min(rates) < 1e-2 < max(rates) < 1.78e-2
    assert len(bitfit.third(bitfit.rates, 1e-1, 6)) == 6  # at an end


def test_a_size_of_a_plan_is_not_searched_and_what_a_host_refuses_neither():
    assert space("lora", **{"model.backbone.method.rank": 2}).size is None
    swin = space("adaptformer", "nano_swin")
    assert [swin.takes(64), swin.takes(16)] == [False, True]  # its narrowest width is 24
    swin.others = [64, 16, 32, 4]
    assert {point["bottleneck"] for point in swin.third(swin.rates, 1e-2, 6)} == {16, 4}


def test_sizes_are_numbers_and_no_rates_of_dropping():
    assert size_of_space({"drop": [0.0, 0.1], "kind": ["a"], "on": [False, True], "scale": [0.1, 1.0]}) == "scale"
    assert size_of_space({"lr": LOW_LR, "drop_path": [0.0, 0.2]}) is None


@pytest.mark.parametrize(
    ("value", "values", "end"),
    [
        (1e-4, Range(1e-4, 1e-1), True),
        (0.08, Range(1e-4, 1e-1), True),
        (0.05, Range(1e-4, 1e-1), False),
        (16, [2, 4, 8, 16], True),
        (8, [2, 16, 8, 4], False),
        (0.1, [0.0, 0.1], False),
        (0.0, [0.0, 0.1, 0.2], False),
        ("b", ["a", "b", "c"], False),
    ],
)
def test_what_lies_at_an_end(value, values, end):
    assert at_end(value, values) is end


def test_between_is_in_equal_factors():
    assert between([1.0, 4.0, 16.0], 4.0, 2) == [2.0, 8.0]
    assert between([1.0, 8.0], 8.0, 2) == [2.0, 4.0]


def test_wrong_budgets_say_so():
    with pytest.raises(UserError, match=r"search.trial: .*did you mean 'trials'"):
        RateBudget.of({"trial": 3})
    with pytest.raises(UserError, match="plan: search: trials=1 must be"):
        RateBudget.of({"trials": 1})
    with pytest.raises(UserError, match="two or more"):
        RateSpace.of(str(ROOT / "configs/mini/lora_nano_vit.py"), {}, RateBudget(rates=[0.1]))
