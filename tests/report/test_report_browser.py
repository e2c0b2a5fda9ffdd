"""The page in a real browser: quiet, offline, moved by slider and keyboard, readable at 1280 and 400 pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from chromium import By, Keys, WebDriverWait, needs_chromium, open_browser, requested, visit, webdriver

pytestmark = needs_chromium
REPORTS = ("search", "general", "retrain", "broken", "comparison")

VISIBLE_TEXTS = """
const svgs = [...document.querySelectorAll(arguments[0])].filter((svg) => svg.getClientRects().length);
return svgs.map((svg) => [...svg.querySelectorAll("text")].filter((t) => t.textContent).map((t) => {
  const box = t.getBoundingClientRect();
  const scale = t.getScreenCTM();
  return {
    text: t.textContent, left: box.left, right: box.right, top: box.top, bottom: box.bottom,
    size: parseFloat(getComputedStyle(t).fontSize) * Math.hypot(scale.a, scale.b),
  };
}));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def kept_edges(browser: Any, kind: str = "wide") -> list[str]:
    script = f"return [...document.querySelectorAll('.forming .{kind} .edge.kept')].map((e) => e.dataset.edge)"
    return sorted(browser.execute_script(script))


def overlaps(texts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Pairs of texts whose letters touch; a box has room above and below its letters, about a fifth of it each."""
    found = []
    for i, a in enumerate(texts):
        for b in texts[i + 1 :]:
            along = min(a["right"], b["right"]) - max(a["left"], b["left"])
            room = 0.2 * max(a["size"], b["size"])
            across = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"]) - 2 * room
            if along > 0.5 and across > 0.5:
                found.append((a["text"], b["text"]))
    return found


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", REPORTS)
def test_the_page_is_quiet_offline_readable_and_within_the_window(browser, reports, name, width):
    visit(browser, reports[name], width=width)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert [url for url in requested(browser) if not url.startswith(("file:", "data:"))] == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    drawings = browser.execute_script(VISIBLE_TEXTS, "figure svg")
    assert drawings
    for texts in drawings:
        assert overlaps(texts) == []
        for text in texts:
            assert text["size"] >= 10.0, text


@pytest.mark.parametrize(("width", "kind"), [(1280, "wide"), (400, "narrow")])
def test_no_labels_overlap_in_the_cell_at_any_epoch(browser, reports, width, kind):
    visit(browser, reports["search"], width=width)
    slider = browser.find_element(By.CSS_SELECTOR, ".scrubber input")
    slider.send_keys(Keys.HOME)
    for _ in range(8):
        drawings = browser.execute_script(VISIBLE_TEXTS, f".forming .{kind} svg")
        assert len(drawings) == 2
        assert [overlaps(texts) for texts in drawings] == [[], []]
        for _ in range(6):
            slider.send_keys(Keys.ARROW_RIGHT)


def test_the_arrow_keys_move_through_the_epochs_and_change_the_drawing(browser, reports):
    visit(browser, reports["search"])
    data = json.loads(browser.execute_script("return document.querySelector('script.frames').textContent"))
    slider = browser.find_element(By.CSS_SELECTOR, ".scrubber input")
    output = browser.find_element(By.CSS_SELECTOR, ".scrubber output")
    last = kept_edges(browser)
    slider.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert output.text == "48"
    slider.send_keys(Keys.HOME)
    assert output.text == "1"
    for kind in ("wide", "narrow"):
        cells = data["cells"].values()
        assert kept_edges(browser, kind) == sorted(cell["pairs"][e] for cell in cells for e, _ in cell["kept"][0])
    assert kept_edges(browser) != last
    slider.send_keys(Keys.END)
    assert output.text == "50"
    assert kept_edges(browser) == last
    assert slider.get_attribute("aria-valuetext") == "epoch 50"


def test_the_slider_moves_labels_probabilities_legends_and_marks(browser, reports):
    visit(browser, reports["search"])
    for summary in browser.find_elements(By.CSS_SELECTOR, "details:has(.alphas-of) summary"):
        summary.send_keys(Keys.ENTER)

    def state() -> list[Any]:
        return browser.execute_script(
            """return [
              [...document.querySelectorAll(".forming .wide .edge-label")].map((t) => t.textContent),
              [...document.querySelectorAll(".forming .wide .edge")].map((e) => e.getAttribute("stroke-width")),
              [...document.querySelectorAll(".alphas span")].map((s) => s.textContent),
              [...document.querySelectorAll(".legend")].map((t) => t.textContent),
              [...document.querySelectorAll(".epoch-line")].map((l) => l.getAttribute("x1")),
            ]"""
        )

    before = state()
    browser.find_element(By.CSS_SELECTOR, ".scrubber input").send_keys(Keys.HOME)
    after = state()
    assert all(a != b for a, b in zip(before, after, strict=True))
    browser.find_element(By.CSS_SELECTOR, ".scrubber input").send_keys(Keys.END)
    assert state() == before


def test_the_slider_moves_the_choices_of_a_general_space(browser, reports):
    visit(browser, reports["general"])
    widths = "return [...document.querySelectorAll('.wide .pill-bar')].map((b) => Number(b.getAttribute('width')))"
    chosen = "return [...document.querySelectorAll('.wide .chosen')].map((c) => c.dataset.candidate)"
    last = browser.execute_script(widths)
    assert len(browser.execute_script(chosen)) == 7  # five layer choices and two of three inputs
    browser.find_element(By.CSS_SELECTOR, ".scrubber input").send_keys(Keys.HOME)
    assert browser.execute_script(widths) != pytest.approx(last)
    assert len(browser.execute_script(chosen)) == 7


def test_play_runs_through_the_epochs_and_stops_at_the_last(browser, reports):
    visit(browser, reports["broken"])
    button = browser.find_element(By.CSS_SELECTOR, ".play")
    button.send_keys(Keys.ENTER)
    assert button.text == "Pause"
    WebDriverWait(browser, 10).until(lambda _: button.text == "Play")
    assert browser.find_element(By.CSS_SELECTOR, ".scrubber output").text == "7"


def test_a_click_into_a_chart_moves_the_slider_and_the_pointer_shows_values(browser, reports):
    visit(browser, reports["search"])
    plot = browser.find_element(By.CSS_SELECTOR, "[data-picture=loss] .plot rect")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    webdriver.ActionChains(browser).move_to_element(plot).click().perform()
    epoch = int(browser.find_element(By.CSS_SELECTOR, ".scrubber output").text)
    assert 22 <= epoch <= 27
    tip = browser.find_element(By.ID, "tip").text
    assert tip.startswith(f"epoch {epoch}")
    assert "train: " in tip
    heat = browser.find_element(By.CSS_SELECTOR, "[data-picture=alphas-normal] .wide .plot rect")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", heat)
    webdriver.ActionChains(browser).move_to_element(heat).perform()
    assert browser.find_element(By.ID, "tip").text.startswith("normal/0->2\n")


def test_the_theme_follows_the_system_until_the_button_is_pressed(browser, reports):
    ground = "return getComputedStyle(document.body).backgroundColor"
    visit(browser, reports["general"], theme="light")
    light = browser.execute_script(ground)
    visit(browser, reports["general"], theme="dark")
    dark = browser.execute_script(ground)
    assert light != dark
    button = browser.find_element(By.ID, "theme")
    assert button.text == "Light mode"
    button.send_keys(Keys.ENTER)
    assert browser.execute_script(ground) == light
    button.send_keys(Keys.ENTER)
    assert browser.execute_script(ground) == dark
    browser.execute_script("localStorage.clear()")
    browser.execute_script("delete document.documentElement.dataset.theme")  # as without scripts
    assert browser.execute_script(ground) == dark


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", REPORTS)
def test_every_text_stands_out_from_its_ground(browser, reports, name, theme):
    visit(browser, reports[name], theme=theme)
    faint = browser.execute_script(
        """
        const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
        const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
          .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
          .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const ground = (element) => {
          for (let e = element; e; e = e.parentElement) {
            const colour = numbers(getComputedStyle(e).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
          }
          return [255, 255, 255];
        };
        const kinds = "p, dt, dd, th, td, h2, h3, summary, figcaption, button, li, text";
        return [...document.querySelectorAll(kinds)].filter((t) => t.getClientRects().length && t.textContent.trim()
            && !t.closest(".candidate, [data-picture=confusion]")).map((t) => {
          const style = getComputedStyle(t);
          const colour = numbers(t.tagName === "text" ? style.fill : style.color);
          const [a, b] = [light(colour), light(ground(t))].sort((x, y) => y - x);
          return [t.textContent, (a + 0.05) / (b + 0.05)];
        }).filter(([, contrast]) => contrast < 4.5);
        """
    )
    assert faint == []


def test_a_page_full_of_markup_in_its_labels_runs_none_of_it(browser, tmp_path):
    import run_factory

    from archgrad.report import write_report

    nasty = "<img src=x onerror='window.hit=1'></script><script>window.hit=1</script>"
    run = run_factory.write_general(tmp_path / "run", epochs=3, names=(nasty, "__proto__", "c"))
    visit(browser, write_report([run]))
    browser.find_element(By.CSS_SELECTOR, ".scrubber input").send_keys(Keys.HOME)
    assert browser.execute_script("return window.hit") is None
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
