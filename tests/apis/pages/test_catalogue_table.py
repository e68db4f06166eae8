"""The table of what was gone through, and how the page reads it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from vpeft.apis.pages.catalogue import CATALOGUE, CatalogueRow, read_catalogue, untried, whole_hosts, write_catalogue
from vpeft.registry import HOSTS, PEFT_METHODS

WIDTH = "LST is for one width, and this a.Swin has stages, unlike a ViT"
FOUND = [
    CatalogueRow("a.Swin", "LST", "refused", WIDTH, "", "2026-11-28", "0123456789", "ab"),
    CatalogueRow("a.Swin", "LoRA", "passed", "", "7 of 7", "2026-11-28", "0123456789", "ab"),
    CatalogueRow("a.Vit", "LST", "passed", "", "", "2026-11-28", "0123456789", "ab"),
    CatalogueRow("a.Vit", "LoRA", "failed", "4_merge: it differs", "", "2026-11-28", "0123456789", "ab"),
    CatalogueRow("b.Swin", "LST", "refused", WIDTH.replace("a.Swin", "b.Swin"), "", "2026-11-28", "0123456789", "ab"),
    CatalogueRow("b.Swin", "LoRA", "passed", "", "6 of 7; x refused: no, never", "2026-11-28", "0123456789", "ab"),
]


def test_a_table_is_written_row_by_row(tmp_path):
    path = tmp_path / "catalogue.csv"
    assert read_catalogue(path) == []
    write_catalogue(FOUND[3:], path)
    write_catalogue(FOUND[:3], path)
    assert read_catalogue(path) == FOUND
    again = replace(FOUND[3], result="passed", reason="")
    write_catalogue([again], path)
    assert read_catalogue(path) == [*FOUND[:3], again, *FOUND[4:]]


def test_shards_that_write_at_once_lose_no_row(tmp_path):
    path = tmp_path / "catalogue.csv"
    rows = [replace(FOUND[0], method=f"method{number:03}") for number in range(80)]
    with ThreadPoolExecutor(8) as pool:  # a lock of a file that was opened twice holds between threads, too
        list(pool.map(lambda row: write_catalogue([row], path), rows))
    assert read_catalogue(path) == rows


def test_a_host_counts_when_every_method_has_been_gone_through():
    methods = sorted(PEFT_METHODS.module_dict)
    whole = [replace(FOUND[0], method=method) for method in methods]
    assert whole_hosts([*whole, *FOUND[2:]]) == whole
    elsewhere = replace(FOUND[0], host="another", method=methods[0])
    assert whole_hosts([*whole[1:], elsewhere]) == []
    assert whole_hosts(whole[1:]) == whole[1:]  # a new method, gone through nowhere yet
    assert untried(whole[1:]) == methods[:1]


def test_a_method_under_way_takes_no_host_away():
    methods = sorted(PEFT_METHODS.module_dict)
    hosts = ("a", "b", "c")
    whole = [replace(FOUND[0], host=host, method=method) for host in hosts for method in methods[1:]]
    begun = replace(FOUND[0], host="a", method=methods[0])
    assert whole_hosts([*whole, begun]) == sorted(whole)
    assert untried(whole_hosts([*whole, begun])) == methods[:1]


def test_the_shipped_table_names_what_exists():
    found = read_catalogue()
    assert CATALOGUE.exists()
    assert {one.host.split("/")[0] for one in found} <= set(HOSTS.module_dict)
    assert {one.method for one in found} <= set(PEFT_METHODS.module_dict)
    assert {one.result for one in found} <= {"passed", "refused"}
