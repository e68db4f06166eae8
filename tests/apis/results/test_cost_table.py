"""The table with costs, against one worked by hand."""

from support.results import result, store

from vpeft.apis.results.costs import FORMERLY_SAVED
from vpeft.apis.results.files import read_results
from vpeft.apis.results.statistics import lines
from vpeft.apis.results.tables import as_csv, with_costs

MIB = 2**20


def cost(step, memory, ratio=None):
    return {
        "step_ratio": ratio,
        "step_seconds": step,
        "saved_bytes": memory,
        "peak_bytes": memory and 3 * memory,
        "parameter_bytes": 4 * MIB,
        "adapter_bytes": 7,
    }


def test_beside_full_fine_tuning(tmp_path):
    store(
        tmp_path,
        result("Full", "digits", 0, 0.80, 10_000_000, cost=cost(0.2, 8 * MIB, 3.0)),
        result("Full", "digits", 1, 0.84, 10_000_000, cost=cost(0.4, 8 * MIB, 4.0)),
        result("LoRA", "digits", 0, 0.70, 0, cost=cost(0.15, 2 * MIB)),
        result("LoRA", "digits", 1, 0.74, 0, cost=cost(0.15, 2 * MIB, 0.7)),
    )
    assert with_costs(read_results(tmp_path)).splitlines() == [
        "| method | accuracy/top1 | parameters | PPT | step / reference | iteration (ms) | saved (MiB) | peak (MiB) "
        "| parameters (MiB) | step / full | iteration / full | saved / full | peak / full | parameters / full |",
        "|---" + "|---:" * 13 + "|",
        # PPT: 0.82 exp(-log10(2)) = 0.607
        "| Full | **82.0** ± 2.8 | 10,000,000 | 0.607 "
        "| 3.50 | 300 | 8.0 | 24.0 | 4.0 | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 |",
        "| LoRA | **72.0** ± 2.8 | 0 | 0.720 | 0.70 | 150 | 2.0 | 6.0 | 4.0 | 0.20 | 0.50 | 0.25 | 0.25 | 1.00 |",
    ]


def test_without_full_fine_tuning_nothing_is_relative(tmp_path):
    store(tmp_path, result("LoRA", "digits", 0, 0.70, 0, cost=cost(None, None)))
    text = with_costs(read_results(tmp_path))
    assert "full" not in text
    assert "| LoRA | **70.0** | 0 | 0.700 |  |  |  |  | 4.0 |" in text


def test_former_results_are_read(tmp_path):
    """What was called peak was what is saved on a CPU, and on an accelerator another figure than any of these."""
    former = {"step_seconds": 0.15, "peak_memory_bytes": 5 * MIB, "adapter_bytes": 7}
    for method, is_ in (("LoRA", FORMERLY_SAVED), ("SSF", "allocated on the accelerator")):
        store(tmp_path, result(method, "digits", 0, 0.7, 0, cost={**former, "memory_is": is_}))
    lora, ssf = lines(read_results(tmp_path))
    assert (lora.cost["saved_bytes"], lora.cost["step_seconds"]) == (5 * MIB, 0.15)
    assert {ssf.cost[name] for name in ("saved_bytes", "peak_bytes", "parameter_bytes", "step_ratio")} == {None}
    assert f",0.15,{5 * MIB},," in as_csv(read_results(tmp_path))
