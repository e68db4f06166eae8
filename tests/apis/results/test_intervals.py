"""Intervals hold what they say: coverage by simulation, and the parts by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from vpeft.apis.results.intervals import (
    Spread,
    borrowed,
    holm,
    of_mean,
    pooled_spread,
    sampling_spread,
    student,
    typical_variances,
)

RUNS = 1200
#: A coverage of 95 % is found within this by so many runs, and "93 to 97" is what is asked for.
LOW, HIGH = 0.93, 0.97


def covered(intervals, truth=0.0):
    return np.mean([low <= truth <= high for low, high in intervals])


DRAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, size=n),
    "laplace": lambda rng, n: rng.laplace(size=n),
}


@pytest.mark.parametrize(
    ("kind", "tasks"), [("normal", 3), ("normal", 5), *((kind, n) for kind in DRAWS for n in (8, 14, 19, 30))]
)
def test_over_tasks(kind, tasks):
    rng = np.random.default_rng(tasks)
    assert LOW < covered([student(list(DRAWS[kind](rng, tasks))) for _ in range(RUNS)]) < HIGH


@pytest.mark.parametrize("far", [1.0, 10.0], ids=["alike", "ten-times"])
@pytest.mark.parametrize(("tasks", "seeds"), [(1, 2), (1, 3), (3, 3), (8, 2), (8, 3), (19, 2), (19, 3)])
def test_over_seeds(tasks, seeds, far):
    rng = np.random.default_rng(100 * tasks + seeds)
    deviations = np.geomspace(1, far, tasks)[:, None]
    draws = rng.normal(size=(RUNS, tasks, seeds)) * deviations
    assert LOW < covered([pooled_spread(list(x)).interval(x.mean()) for x in draws]) < HIGH


@pytest.mark.parametrize("rows", [4, 12])
def test_one_seed_by_other_rows(rows):
    """A row of one seed against one of three, with the variance of ``rows`` others of three seeds."""
    rng, found = np.random.default_rng(rows), []
    for _ in range(RUNS):
        others = rng.normal(size=(rows, 4, 3)) * [[1.0], [2.0], [3.0], [4.0]]
        variances = typical_variances([dict(zip("abcd", other, strict=True)) for other in others])
        one, three = rng.normal(size=(4, 1)), rng.normal(size=(4, 3))
        difference = ((one.mean(1) - three.mean(1)) * [1, 2, 3, 4]).mean()
        found.append(borrowed(dict.fromkeys("abcd", (1, 3)), variances).interval(difference))
    assert LOW < covered(found) < HIGH


@pytest.mark.parametrize("regions", [21, 48])
def test_over_regions_of_photographs(regions):
    """Two rows of which each is better in regions of its own; taken for single images the patches would not cover."""
    rng, of = np.random.default_rng(regions), np.random.default_rng(1).integers(8, 25, regions)
    found, single = [], []
    for _ in range(RUNS):
        first, second = (rng.binomial(of, rng.beta(6, 2, regions)) for _ in range(2))
        difference, share = first - second, (first - second).sum() / of.sum()
        found.append(sampling_spread(difference, of).interval(share))
        error = math.sqrt((first.sum() * (of - first).sum() + second.sum() * (of - second).sum()) / of.sum() ** 3)
        single.append((share - 1.96 * error, share + 1.96 * error))
    assert LOW < covered(found) < HIGH
    assert covered(single) < 0.8


def test_over_test_images_of_two_rows():
    """A difference of two rows that answer the same images: those on which they differ decide."""
    rng, found = np.random.default_rng(3), []
    for _ in range(RUNS):
        draws = rng.uniform(size=200)
        difference = (draws < 0.8).astype(int) - ((draws > 0.03) & (draws < 0.9)).astype(int)  # 80 and 87 %
        found.append(sampling_spread(difference, np.ones(200, int)).interval(difference.mean()))
    assert LOW < covered(found, -0.07) < HIGH


def test_test_images_by_hand():
    plain = sampling_spread([1, 1, 1, 0], [1, 1, 1, 1])
    assert (plain.error, plain.freedom) == (pytest.approx(math.sqrt(0.75 * 0.25 / 3)), 3)
    regions = sampling_spread([4, 0], [4, 6])  # 0.4 of all; without the first 0, without the second 1
    assert regions.error == pytest.approx(math.sqrt((0.4**2 + 0.6**2) / 2))
    assert sampling_spread([3], [4]) is None
    both = of_mean([Spread(0.3, 4), Spread(0.4, 9)])
    assert both.error == pytest.approx(0.25)
    assert both.freedom == pytest.approx(0.25**2 / (0.09**2 / 4 + 0.16**2 / 9))


def test_the_parts_by_hand():
    spread = pooled_spread([[0.1, 0.3], [0.2, 0.2]])
    assert spread.error == pytest.approx(math.sqrt(0.02 / 2) / 2)
    single = pooled_spread([[0.1, 0.3], [0.2]])  # the second's variance is taken to be as large: 0.02
    assert single.error == pytest.approx(math.sqrt(0.02 / 2 + 0.02) / 2)
    assert pooled_spread([[0.1], [0.2]]) is None
    assert pooled_spread([[0.1, 0.2, 0.6]]).freedom == pytest.approx(2)
    assert student([1.0, 2.0]) is None
    assert student([1.0, 1.0, 1.0]) is None
    assert student([1.0, 2.0, 3.0]) == pytest.approx(stats.t.interval(0.95, 2, 2.0, 1 / math.sqrt(3)))
    assert typical_variances([{"a": [1.0, 3.0]}, {"a": [1.0, 2.0, 3.0], "b": [1.0]}]) == {
        "a": (pytest.approx(4 / 3), 3)
    }
    assert borrowed({"a": (1, 1)}, {}) is None
    assert borrowed({"a": (1, 2)}, {"a": (0.04, 5)}).error == pytest.approx(math.sqrt(0.04 * 1.5))
    assert borrowed({"a": (1, 2)}, {"a": (0.0, 5)}) is None
    assert Spread(0.0, 1).p_value(0.1) == 0.0
    assert Spread(0.5, 4).p_value(1.0) == pytest.approx(0.116117, abs=1e-6)


def test_holm():
    """By hand: 3 x 0.01, the greater of that and 2 x 0.02, the greater of that and 0.04."""
    assert holm([0.02, 0.01, 0.04]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_false_finds_below_a_twentieth():
    rng = np.random.default_rng(5)
    assert np.mean([min(holm(list(rng.uniform(size=20)))) < 0.05 for _ in range(RUNS)]) < 0.06
