"""The page with the keyboard alone, in Chromium with Selenium: to a stage, to a number, to its bytes, and back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toolchain.explore.assemble import write_page

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed: no keys are pressed")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page of a small model, computed."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium and chromedriver are not installed: no keys are pressed")
    page = tmp_path_factory.mktemp("page") / "page.html"
    write_page(data / "ggml" / "T1_quant_p2" / "T1.q4_0.bin", page, data / "ggml" / "T1_input" / "tokenizer.model")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1500,950"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.get(f"{page.as_uri()}?lang=en&scheme=light")
        WebDriverWait(driver, 60).until(lambda it: "tokens computed" in it.find_element("id", "status").text)
        yield driver
    finally:
        driver.quit()


def press(browser: Any, *keys: str) -> None:
    webdriver.ActionChains(browser).send_keys(*keys).perform()


def focus(browser: Any) -> dict[str, str]:
    """Where the keyboard is."""
    script = """const it = document.activeElement;
      const stage = it.closest("section, aside")?.id ?? "";
      return { stage, key: it.dataset.key ?? it.id, kind: it.className, text: it.textContent.slice(0, 60) };"""
    return browser.execute_script(script)


def tab_to(browser: Any, kind: str, most: int = 30) -> dict[str, str]:
    """Press Tab until something of that class has the focus."""
    for _ in range(most):
        press(browser, Keys.TAB)
        if kind in (at := focus(browser))["kind"].split():
            return at
    raise AssertionError(f"no {kind} within {most} presses of Tab; now at {at}")


def test_a_digit_goes_to_a_stage_and_tab_to_its_first_control(browser):
    for number, stage in enumerate(("bytes", "block", "tokens", "embedding", "layers", "logits", "choice"), 1):
        press(browser, Keys.ESCAPE)
        browser.execute_script("document.activeElement.blur()")
        press(browser, str(number))
        assert focus(browser)["stage"] == stage
        press(browser, Keys.TAB)
        assert focus(browser)["stage"] == stage


def test_a_number_is_chosen_followed_to_its_bytes_and_let_go(browser):
    browser.execute_script("document.activeElement.blur()")
    press(browser, "5")
    cell = tab_to(browser, "cell")
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    moved = focus(browser)
    assert moved["stage"] == cell["stage"] == "layers"
    assert moved["key"] != cell["key"]
    press(browser, Keys.ENTER)
    assert focus(browser) | {"text": ""} == {"stage": "origin", "key": "origin", "kind": "", "text": ""}
    press(browser, Keys.TAB, Keys.TAB, Keys.TAB)  # the way out, the line of transformer.py, the place in the file
    place = focus(browser)
    assert place["stage"] == "origin"
    assert "block at" in place["text"] or "at offset" in place["text"]
    press(browser, Keys.ENTER)
    assert browser.execute_script("return document.querySelectorAll('.byte.marked').length") > 0
    press(browser, Keys.TAB)
    number = focus(browser)["text"]
    press(browser, Keys.ENTER)  # another number that it was computed from
    assert focus(browser)["key"] == "origin"
    assert number.partition(" = ")[0] in browser.find_element("css selector", "#origin h2").text
    press(browser, Keys.ESCAPE)
    assert browser.execute_script("return document.getElementById('origin').hidden")
    assert focus(browser)["key"] == moved["key"]


def test_the_line_of_the_source_opens_and_closes(browser):
    browser.execute_script("document.activeElement.blur()")
    press(browser, "6")
    tab_to(browser, "link")
    press(browser, Keys.ENTER)
    assert browser.execute_script("return document.getElementById('source').open")
    assert browser.find_element("css selector", "#source .on").is_displayed()
    press(browser, Keys.ESCAPE)
    assert not browser.execute_script("return document.getElementById('source').open")
    assert focus(browser)["stage"] == "logits"


def test_a_letter_makes_the_next_character(browser):
    browser.execute_script("document.activeElement.blur()")
    before = browser.find_element("id", "status").text
    press(browser, "n")
    WebDriverWait(browser, 30).until(lambda it: it.find_element("id", "status").text != before)
    assert int(browser.find_element("id", "status").text.split()[0]) == int(before.split()[0]) + 1
