"""The documentation's pages, taken apart: their code blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page for page in sorted(DOCS.rglob("*.md"))}
FENCE = re.compile(r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n\n?)?^```(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    title: str | None
    code: str
    why_not_run: str | None

    def __str__(self) -> str:
        return f"docs/{self.page}, line {self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a shell block, split as a shell would; variables set before a command are left out."""
        lines = self.code.replace("\\\n", " ").splitlines()
        words = [shlex.split(line, comments=True) for line in lines]
        return [without_assignments(command) for command in words if command]


def without_assignments(command: list[str]) -> list[str]:
    """Return a command without the variables that are set before it."""
    while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
        command = command[1:]
    return command


def blocks(page: str) -> Iterator[Block]:
    text = PAGES[page].read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        language, _, rest = match["info"].partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        line = text[: match.start("code")].count("\n")
        yield Block(page, line, language, title[1] if title else None, match["code"], match["why"])


def archgrad_arguments(command: list[str]) -> list[str] | None:
    """Return what archgrad is given by a command, also through `python -m` or torchrun; None for other programs."""
    if command[0] == "archgrad":
        return command[1:]
    for place in range(1, len(command) - 1):
        if command[place - 1 : place + 1] == ["-m", "archgrad"]:
            return command[place + 1 :]
    return None
