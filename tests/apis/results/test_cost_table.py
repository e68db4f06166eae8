"""The table with costs, against one worked by hand."""

from support.results import result, store

from vpeft.apis.results.files import read_results
from vpeft.apis.results.tables import with_costs

MIB = 2**20


def cost(step, memory):
    return {"step_seconds": step, "peak_memory_bytes": memory, "adapter_bytes": 7}


def test_beside_full_fine_tuning(tmp_path):
    store(
        tmp_path,
        result("Full", "digits", 0, 0.80, 10_000_000, cost=cost(0.2, 8 * MIB)),
        result("Full", "digits", 1, 0.84, 10_000_000, cost=cost(0.4, 8 * MIB)),
        result("LoRA", "digits", 0, 0.70, 0, cost=cost(0.15, 2 * MIB)),
        result("LoRA", "digits", 1, 0.74, 0, cost=cost(0.15, 2 * MIB)),
    )
    assert with_costs(read_results(tmp_path)).splitlines() == [
        "| method | accuracy/top1 | parameters | PPT | memory (MiB) | step (ms) | memory / full | step / full |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        # PPT: 0.82 exp(-log10(2)) = 0.607
        "| Full | **82.0** ± 2.8 | 10,000,000 | 0.607 | 8.0 | 300 | 1.00 | 1.00 |",
        "| LoRA | **72.0** ± 2.8 | 0 | 0.720 | 2.0 | 150 | 0.25 | 0.50 |",
    ]


def test_without_full_fine_tuning_nothing_is_relative(tmp_path):
    store(tmp_path, result("LoRA", "digits", 0, 0.70, 0, cost=cost(None, None)))
    text = with_costs(read_results(tmp_path))
    assert "full" not in text
    assert "| LoRA | **70.0** | 0 | 0.700 |  |  |" in text
