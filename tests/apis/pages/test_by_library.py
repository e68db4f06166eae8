"""The page of hosts."""

from pathlib import Path

from vpeft.apis.pages import by_library
from vpeft.apis.pages.by_library import family_of_host, hosts_page
from vpeft.apis.pages.catalogue import CatalogueRow
from vpeft.apis.pages.names import NamesRow, read_names, write_names
from vpeft.registry import HOSTS

ROOT = Path(__file__).parents[3]
WHEN = ("", "2026-11-28", "0123456789", "ab")


def test_the_page_is_up_to_date():
    page = hosts_page()
    assert page == (ROOT / "docs" / "hosts_by_library.md").read_text(), "run tools/methods_page.py"
    assert all(f"`{host}`" in page for host in HOSTS.module_dict)


def test_a_family_is_the_file_of_a_host():
    assert family_of_host("timm.SwinTransformerV2Cr") == family_of_host("transformers.Swinv2Model") == "swinv2"
    assert family_of_host("timm.VisionTransformer/norm-behind") == "vit"


def test_what_stands_on_the_page(monkeypatch):
    narrow = "LST is for one width; this {} has stages, as in block {}. did you mean 'x'? Known: a, b."
    found = [
        CatalogueRow("timm.Beit", "E3VA", "refused", "E3VA: no norm", *WHEN),
        CatalogueRow("timm.Beit", "LoRA", "passed", "", *WHEN),
        CatalogueRow("timm.SwinTransformer", "HST", "refused", narrow.format("timm.SwinTransformer", 2), *WHEN),
        CatalogueRow("timm.SwinTransformer", "LST", "refused", narrow.format("timm.SwinTransformer", "3, 4"), *WHEN),
        CatalogueRow("timm.VisionTransformer/norm-behind", "LoRA", "passed", "", *WHEN),
    ]
    found[2] = CatalogueRow(*(value.replace("LST", "HST") for value in vars(found[2]).values()))
    names = [
        NamesRow("swin", "accepted", "", 2, ""),
        NamesRow("volo", "refused", "no host reads it", 2, "volo_d1 volo_d2"),
        NamesRow("volo", "no prompts", "", 1, ""),
    ]
    monkeypatch.setattr(by_library, "read_catalogue", lambda: found)
    monkeypatch.setattr(by_library, "whole_hosts", list)
    monkeypatch.setattr(by_library, "read_names", lambda: names)
    lines = hosts_page().splitlines()
    assert next(line for line in lines if line.startswith("| swin |")).split("|")[1:8] == [
        *(" swin ", "  ", " ? ", " ? ", " ? ", "  ", " 0 "),
    ]
    swin = next(line for line in lines if "| `timm.SwinTransformer` |" in line)
    assert "| `SwinTransformer` | 0 | HST, LST (a) | timm `SwinTransformer`" in swin
    assert "| 1 | E3VA (b) |" in next(line for line in lines if "| `timm.Beit` |" in line)
    assert "- **a**: the method is for one width; the host has stages, as in block n." in lines
    assert "- **b**: the method: no norm" in lines
    variant = next(line for line in lines if "`timm.VisionTransformer/norm-behind`" in line)
    assert (
        variant == "| vit | `timm.VisionTransformer/norm-behind` |  | 1 |  | its blocks with the option `norm-behind` |"
    )
    assert "| volo | 3 | 1 | 2: no host reads it |" in lines
    assert any(line.startswith("Of 5 transformer-like names of timm hosts read 3 ") for line in lines)
    assert "Read as a whole: swin." in lines


def test_names_are_written_module_by_module(tmp_path):
    path = tmp_path / "names.csv"
    assert read_names(path) == []
    write_names("b", [NamesRow("b", "refused", "no, never", 2, "b1 b2")], path)
    write_names("a", [NamesRow("a", "accepted", "", 1, "")], path)
    write_names("b", [NamesRow("b", "accepted", "", 2, "")], path)
    assert read_names(path) == [NamesRow("a", "accepted", "", 1, ""), NamesRow("b", "accepted", "", 2, "")]
