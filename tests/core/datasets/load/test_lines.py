"""Lists: every line is a path and a label, or is refused with its number."""

import time

import pytest

from vpeft.core.datasets.load.lines import SEPARATED, SPACED, check_name, list_lines, path_and_label
from vpeft.errors import UserError


def test_lines_keep_their_numbers(tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes("\ufeffä b.jpg 3\r\n\r\n  c\u2028d.jpg\t-4  \n".encode())
    lines = list(list_lines(file))
    assert [where for where, _ in lines] == [f"{file}:1", f"{file}:3"]
    assert [path_and_label(line, where, SPACED, "") for where, line in lines] == [("ä b.jpg", 3), ("c\u2028d.jpg", -4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.jpg 1\nb\xe4.jpg 2\n", r"list .*list\.txt:2: byte 0xe4 is not UTF-8: save the file as UTF-8"),
        ("a.jpg 1\n".encode("utf-16"), r"list\.txt:1: byte 0xff is not UTF-8"),
        (b"a.jpg 1\nb\0.jpg 2\n", r"list\.txt:2: it holds a NUL byte"),
        (b"", r"list\.txt is empty"),
        (None, r"list\.txt does not exist: look there"),
        ("folder", r"list\.txt is a folder"),
    ],
)
def test_a_list_that_is_no_text_is_refused(content, message, tmp_path):
    file = tmp_path / "list.txt"
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(list_lines(file, missing="look there"))


@pytest.mark.parametrize("label", ["1.0", "nan", "cat", "²", "٣", "1e3", "9" * 5000, "", "-", "0x1"])
@pytest.mark.parametrize("pattern", [SPACED, SEPARATED])
def test_a_label_is_a_whole_number(label, pattern):
    with pytest.raises(UserError, match=r"list\.txt:7: 'a\.jpg.* is not `<path> <label>`") as caught:
        path_and_label(f"a.jpg {label}".strip(), "list.txt:7", pattern, "<path> <label>")
    assert len(str(caught.value)) < 200


def test_commas_separate_once():
    assert path_and_label("a b , 3", "", SEPARATED, "") == ("a b", 3)
    assert path_and_label("a,b 3", "", SEPARATED, "") == ("a,b", 3)
    with pytest.raises(UserError):
        path_and_label("a,,3", "", SEPARATED, "")


@pytest.mark.parametrize("pattern", [SPACED, SEPARATED])
def test_long_lines_take_no_time(pattern):
    begin = time.perf_counter()
    for line in ("a" + " " * 200_000 + "b", "a" + ", " * 100_000 + "b", "a " * 100_000):
        with pytest.raises(UserError):
            path_and_label(line, "", pattern, "")
    assert time.perf_counter() - begin < 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x/" + "a" * 256, r"list:1: 'x/a.*\.\.\. is no path of a file: a name has 256 bytes and the path 258"),
        ("ä" * 128, "a name has 256 bytes"),
        ("abc/" * 1024 + "a", "a name has 3 bytes and the path 4097"),
        ("a\0b", "it holds a NUL byte"),
        ("\ud800", "is no path of a file"),
        (3, "3 is no path of a file"),
    ],
)
def test_names_that_no_file_can_have(path, message):
    check_name("x/" + "a" * 255, "list:1")
    with pytest.raises(UserError, match=message):
        check_name(path, "list:1")
