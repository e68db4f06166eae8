"""Mutants fit the code that they change, and the tests that they name are there; a sample of them dies."""

from collections import Counter

import pytest

from mutants.results import DIED, PAGE, Row, append, latest, page
from mutants.run import main, run
from mutants.table import ROOT, Mutant, mutants

#: Whose tests take seconds.
QUICK = (
    "epoch-seed-without-rank",
    "epoch-seed-without-epoch",
    "epoch-seed-without-seed",
    "epoch-seed-runs-meet",
    "guard-lets-infinity-through",
    "guard-looks-at-the-sum",
    "exif-ignored",
    "colours-turned",
    "white-is-black",
    "pixels-unlimited",
)


def test_there_are_enough_and_their_names_are_their_own():
    names = Counter(m.name for m in mutants())
    assert len(names) >= 120
    assert names.most_common(1)[0][1] == 1


@pytest.mark.parametrize("mutant", mutants(), ids=lambda m: m.name)
def test_it_fits_the_code(mutant):
    """One place in one file, Python before and after, another program; its tests are there; it fits into a table."""
    text = (ROOT / "vpeft" / mutant.file).read_text()
    assert mutant.before != mutant.after
    assert mutant.applied(text) != text
    assert mutant.tests
    assert all((ROOT / "tests" / path.split("::")[0]).exists() for path in mutant.tests)
    assert "|" not in mutant.fault
    assert "\n" not in mutant.fault


def test_what_does_not_fit_is_told():
    mutant = Mutant("m", "area", "a fault", "errors.py", "a = 1", "a = 2", ("test_files.py",))
    assert mutant.applied("a = 1\n") == "a = 2\n"
    with pytest.raises(ValueError, match=r"stands 0 times in errors\.py"):
        mutant.applied("b = 1\n")
    with pytest.raises(ValueError, match="stands 2 times"):
        mutant.applied("a = 1\na = 1\n")
    with pytest.raises(ValueError, match="changes nothing"):
        Mutant("m", "area", "a fault", "errors.py", "a = 1", "a =  1", ("test_files.py",)).applied("a = 1\n")
    with pytest.raises(SyntaxError):
        Mutant("m", "area", "a fault", "errors.py", "a = 1", "a = (", ("test_files.py",)).applied("a = 1\n")


def test_the_last_row_counts(tmp_path):
    file = tmp_path / "results.csv"
    first, second = (Row("m", "2026-01-01", "abc", end, "", "1") for end in ("survived", "died"))
    append(first, file)
    append(second, file)
    assert latest(file) == {"m": second}


def test_the_page_is_of_the_table():
    assert PAGE.read_text() == page(), "run python tests/mutants/run.py --page"


def test_unknown_names_are_refused(capsys):
    for words in (["--only", "nowhere"], ["--name", "nobody"], ["--sample", "0"]):
        with pytest.raises(SystemExit):
            main(words)
    assert "no such area or mutant: nobody" in capsys.readouterr().err


@pytest.mark.slow
def test_ten_quick_ones_die():
    assert len(QUICK) == 10
    rows = run(mutants(names=QUICK), write=False)
    assert {r.name: r.outcome for r in rows} == dict.fromkeys(QUICK, DIED)
