"""The documentation builds without a warning, opens from the disk, asks no server for anything, and can be searched."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import PAGES, ROOT

from chromium import By, WebDriverWait, errors, needs_chromium, open_browser, requested, visit

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("material") is None or importlib.util.find_spec("mkdocstrings") is None,
    reason="mkdocs-material or mkdocstrings is not installed; see the extra 'docs'",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_every_page_is_built(site: Path) -> None:
    for name in PAGES:
        assert (site / name).with_suffix(".html").is_file()


def test_the_reference_holds_the_docstrings(site: Path) -> None:
    text = (site / "api" / "search.html").read_text(encoding="utf-8")
    for name in ("search.search", "Supernet", "relaxation.Softmax", "bilevel.Unrolled", "search_step"):
        assert f'id="archgrad.{name}"' in text
    assert "alphas_learning_rate" in text
    assert "Liu et al. 2019, algorithm 1" in text


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|iframe|source)[^>]* src=\"?(https?:)?//|<link[^>]* rel=\"?stylesheet[^>]*//")
    assert [page.name for page in site.rglob("*.html") if loads.search(page.read_text(encoding="utf-8"))] == []


@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", ["index.html", "api/search.html"])
def test_a_page_opens_from_the_disk_without_errors_or_requests(browser: Any, site: Path, page: str, theme: str) -> None:
    visit(browser, site / page, theme=theme)
    assert browser.find_element(By.TAG_NAME, "h1").is_displayed()
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(ground) < 128) == (theme == "dark")
    assert errors(browser) == []
    assert [url for url in requested(browser) if not url.startswith(("file:", "data:", "blob:", "about:"))] == []


@needs_chromium
@pytest.mark.parametrize("width", [1280, 400])
def test_no_page_is_wider_than_the_window(browser: Any, site: Path, width: int) -> None:
    for name in PAGES:
        visit(browser, (site / name).with_suffix(".html"), width=width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, name


@needs_chromium
def test_the_search_finds_a_page_from_the_disk(browser: Any, site: Path) -> None:
    visit(browser, site / "index.html")
    browser.execute_script("document.querySelector('[data-md-toggle=search]').click()")
    browser.find_element(By.CSS_SELECTOR, "input.md-search__input").send_keys("finite differences")
    found = WebDriverWait(browser, 20).until(
        lambda b: [link.get_attribute("href") for link in b.find_elements(By.CSS_SELECTOR, "a.md-search-result__link")]
    )
    assert any("choosing-a-step.html" in link for link in found)
    assert errors(browser) == []
    assert [url for url in requested(browser) if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
