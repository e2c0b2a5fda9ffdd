"""Photograph reports for the documentation: `python tests/report/take_screenshots.py SEARCH RETRAIN docs/images`."""

from __future__ import annotations

import base64
import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from archgrad.report import write_report

ARGUMENTS = "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking"
COLOURS = 220


def main(search: Path, retrain: Path, folder: Path) -> None:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as temporary:
        for argument in [*ARGUMENTS.split(), f"--user-data-dir={temporary}/profile"]:
            options.add_argument(argument)
        browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            pages = {
                "search": write_report([search], out=Path(temporary) / "search.html"),
                "retrain": write_report([retrain], out=Path(temporary) / "retrain.html"),
            }
            folder.mkdir(parents=True, exist_ok=True)
            shoot(browser, pages["search"], folder / "report-search.png", width=1280, height=1040)
            shoot(browser, pages["search"], folder / "report-search-dark-400.png", width=400, height=1560, theme="dark")
            shoot(browser, pages["retrain"], folder / "report-retrain.png", width=1280, height=1000, start="Test set")
        finally:
            browser.quit()


def shoot(
    browser: webdriver.Chrome,
    page: Path,
    file: Path,
    *,
    width: int,
    height: int,
    theme: str = "light",
    start: str = "",
) -> None:
    """Save the top of a page, or what follows the heading `start`."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.resolve().as_uri())
    top = browser.execute_script(
        "const h = [...document.querySelectorAll('h3')].find((h) => h.textContent === arguments[0]);"
        "return h ? h.getBoundingClientRect().top + scrollY - 12 : 0",
        start,
    )
    clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
