"""Scheduling takes work in proportion to the jobs."""

import pytest
from support.many import calls

from vpeft.apis.jobs.engines.engine import Engine
from vpeft.apis.jobs.job import Outcome
from vpeft.apis.jobs.scheduler import run_jobs


class Quick:
    """A job that is done by being counted."""

    def __init__(self, number, root, done=False):
        self.name, self.root, self.is_done, self.asked = f"job{number}", str(root), done, 0

    def done(self):
        self.asked += 1
        return self.is_done

    def run(self):
        self.is_done = True

    def fail(self, error):
        raise AssertionError(error)


class Four(Engine):
    """Ends four jobs at a look."""

    slots = 4

    def __init__(self):
        self.waiting, self.looks = [], 0

    def submit(self, jobs):
        self.waiting[:0] = reversed(jobs)

    def finished(self, timeout):
        self.looks += 1
        ended = [self.waiting.pop() for _ in range(min(4, len(self.waiting)))]
        for job in ended:
            job.run()
        return [(job, Outcome()) for job in ended]


@pytest.mark.parametrize("before", [0, 0.5], ids=["new", "resumed"])
def test_looks_and_questions_grow_with_the_jobs(tmp_path, before):
    counts = []
    for number in (400, 800, 1600):
        jobs = [Quick(i, tmp_path, i < before * number) for i in range(number)]
        engine = Four()
        counts.append(calls(lambda jobs=jobs, engine=engine: run_jobs(jobs, engine, quiet=True)))
        assert engine.looks == number * (1 - before) / 4
        assert sum(job.asked for job in jobs) == number + number * (1 - before)
        assert all(job.is_done for job in jobs)
    assert 1.9 < (counts[2] - counts[1]) / (counts[1] - counts[0]) < 2.1
