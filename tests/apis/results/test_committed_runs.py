"""What pages show of runs that the repository holds is what these say."""

import re
import statistics
from pathlib import Path

from vpeft.apis.results.files import cells, read_results
from vpeft.apis.results.statistics import all_tasks, lines

ROOT = Path(__file__).parents[3]
RUNS = ROOT / "docs/real/runs.jsonl.xz"
IN_README = {"Linear": "linear probing", "LoRA": "LoRA", "AdaptFormer": "AdaptFormer", "Full": "full fine-tuning"}


def test_the_real_benchmark():
    results = read_results(RUNS)
    honest, found = results.honest(), lines(results.honest())
    assert len(honest.runs) == len(results.runs) == 36
    tasks = all_tasks(honest)
    page = (ROOT / "docs/real_benchmark.md").read_text()
    head = re.search(r"^\| method \| parameters \|(.*?)\| mean of 9 tasks", page, re.M)[1]
    assert [f"real_{name.strip()}" for name in head.strip(" |").split("|")] == tasks
    readme = (ROOT / "README.md").read_text()
    for line in found:
        row = [100 * statistics.fmean(line.cells[task].values.values()) for task in tasks]
        text = " | ".join(f"{value:.1f}" for value in row)
        want = f"| {line.row[0]} | {line.parameters:,.0f} | {text} | **{100 * line.mean:.1f}** | {line.ppt:.3f} | 1 |"
        assert want in page
        assert re.search(
            rf"^\| {IN_README[line.row[0]]} \| {line.parameters:,.0f} \| [\d.]+ \| {100 * line.mean:.1f} \|$",
            readme,
            re.M,
        )
    assert {row[0] for row in cells(honest)} == set(IN_README)
