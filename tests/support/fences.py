"""Fenced blocks of README and docs/: their commands and their Python.

``<!-- not run: WHY -->`` in front of a block says that no test runs it; all are parsed.
"""

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>[^\n]+?) -->\s*)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.M | re.S
)
#: What a shell does around a command.
AROUND = re.compile(r"^(?:for .*; do|done)$|^export \w+=")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    language: str
    text: str
    why: str | None

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """Its command lines as words, what stands behind ``$`` in a block that shows a screen too."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language not in ("bash", "shell"):
            return [_words(line[2:]) for line in lines if line.startswith("$ ")]
        found = [_words(line) for line in lines if not AROUND.match(line.strip())]
        return [words for words in found if words]


def _words(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"\w+=\S*", words[0]):  # variables of the environment
        del words[0]
    for number, word in enumerate(words):
        if word in (">", "|", "2>"):
            return words[:number]
    return words


def blocks(*languages: str) -> list[Block]:
    """The blocks of these languages in all pages."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            line = text[: match.start("language")].count("\n") + 1
            inner = textwrap.dedent(match["text"])
            found.append(Block(page.relative_to(ROOT).as_posix(), line, match["language"], inner, match["why"]))
    return [one for one in found if one.language in languages]
