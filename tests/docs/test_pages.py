"""What the pages say is so: their code runs, their options exist, their links lead somewhere."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import DOCS, PAGES, ROOT, Block, archgrad_arguments, blocks

from archgrad.cli.commands import COMMANDS
from archgrad.cli.dotted import split_dotted
from archgrad.cli.main import main
from archgrad.cli.own_code import OWN_KINDS
from archgrad.methods.tree import KINDS

OWN_TEST = {"migrating-from-nni.md": "tests/nni/test_migration_guide.py"}
"""Pages whose Python blocks another test runs, since they hold code for other libraries too."""

SMALLER = {
    "search": ["--train-samples", "64", "--batch-size", "16", "--device", "cpu", "--epochs", "1", "--quiet"],
    "retrain": ["--train-samples", "64", "--batch-size", "32", "--device", "cpu", "--epochs", "1", "--quiet"],
}
"""Added to the pages' commands, where they win over what is there, so that these run in a moment."""

LISTS = ("spaces", "steps", "relaxations")
PARSERS: dict[str, Callable[[], Any]] = {
    name: importlib.import_module(f"archgrad.cli.{name.replace('-', '_')}_command").make_parser
    for name in COMMANDS
    if name not in LISTS
}


def parser_of(command: str) -> Any:
    return PARSERS[command]()  # a parser reads one command line


LANGUAGES = {"python", "sh", "text", "yaml", "json", "csv"}

with_code = [name for name in PAGES if any(block.language in ("python", "sh") for block in blocks(name))]


@pytest.mark.parametrize("page", with_code)
def test_the_code_of_a_page_runs_in_order(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARCHGRAD_DATA", str(tmp_path / "cache"))
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.why_not_run is not None:
            continue
        if block.language == "sh":
            for command in block.commands:
                run_command(command, block)
        elif block.language == "python" and page not in OWN_TEST:
            exec(compile(block.code, str(block), "exec", dont_inherit=True), names)
            if block.title is not None:
                Path(block.title).write_text(block.code, encoding="utf-8")


def run_command(command: list[str], block: Block) -> None:
    arguments = archgrad_arguments(command)
    if arguments is None or command[0] != "archgrad":
        return  # checked by the next test
    resumed = "--resume" in arguments
    smaller = [] if resumed else list(SMALLER.get(arguments[0], []))
    if smaller and "--channels" in arguments:
        smaller += ["--channels", "2"]
    assert main([*arguments, *smaller]) == 0, f"{block}: {' '.join(command)}"


@pytest.mark.parametrize("page", with_code)
def test_every_command_of_a_page_is_one_that_there_is(page: str) -> None:
    for block in blocks(page):
        for command in block.commands if block.language == "sh" else []:
            check_command(command, block)


def check_command(command: list[str], block: Block) -> None:
    arguments = archgrad_arguments(command)
    if arguments is not None:
        assert arguments[0] in COMMANDS, str(block)
        arguments, _ = split_dotted(arguments, (*KINDS, *OWN_KINDS))
        if arguments[0] in PARSERS:
            parser_of(arguments[0]).parse_args(arguments[1:])
        else:
            assert len(arguments) == 1, str(block)
    elif command[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{re.escape(command[1])}:", makefile, re.M), str(block)
    elif command[0].endswith("python") and command[1].endswith(".py"):
        assert (ROOT / command[1]).is_file(), str(block)
    else:
        assert command[0] in ("python3", "cd", ".venv/bin/pip", "pip", "torchrun"), (
            f"{block}: nothing checks {command[0]!r}"
        )


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_a_page_mentions_exists(page: str) -> None:
    known = {option for command in PARSERS for option in parser_of(command)._option_string_actions}
    text = re.sub(r"^```.*?^```$", "", PAGES[page].read_text(encoding="utf-8"), flags=re.M | re.S)
    # In a table from other programs' options to ours, the first column is theirs.
    text = re.sub(r"^\| `--.*?\|", "|", text, flags=re.M)
    mentioned = set(re.findall(r"`(--[a-z][a-z-]*)", text)) - {"--help"}
    theirs = set(re.findall(r"<!-- not ours: (.*?) -->", text))
    assert mentioned - known - {option for line in theirs for option in line.split()} == set()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_readable_as_text(page: str) -> None:
    text = PAGES[page].read_text(encoding="utf-8")
    prose = [line for line in text.splitlines() if not line.startswith(("|", "!["))]
    assert [line for line in prose if len(line) > 120] == []
    assert {block.language for block in blocks(page)} <= LANGUAGES
    assert text.startswith("# ")


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert set(re.findall(r"[\w/-]+\.md", navigation)) == set(PAGES)


def test_the_start_page_links_every_guide_once() -> None:
    linked = re.findall(r"\]\(([\w/-]+\.md)\)", PAGES["index.md"].read_text(encoding="utf-8"))
    guides = [name for name in PAGES if "/" not in name and name != "index.md"]
    assert sorted(linked) == sorted([*guides, "api/index.md"])


def test_pictures_of_the_pages_are_small() -> None:
    for picture in (DOCS / "images").iterdir():
        assert picture.stat().st_size < 400_000, picture.name
