"""The page of a report in Chromium with Selenium: sorted by the keyboard, linked to, whole, and readable on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ggmlpy import open_model
from ggmlpy.look.report import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed: no keys are pressed")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
MODEL = Path(__file__).parents[1] / "data" / "ggml" / "T1_quant_p2" / "T1.q4_0.bin"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("report") / "r.html"
    write_report(MODEL, page)
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium and chromedriver are not installed: no keys are pressed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def names(browser: Any) -> list[str]:
    script = "return [...document.querySelectorAll('#tensors tbody tr')].map(row => row.cells[0].innerText)"
    return browser.execute_script(script)


def test_columns_are_sorted_by_the_keyboard(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    before = names(browser)
    (button,) = (
        it for it in browser.find_elements("css selector", "#tensors th button") if it.text.startswith("offset")
    )
    for expected in (before, before[::-1]):
        browser.execute_script("arguments[0].focus()", button)
        webdriver.ActionChains(browser).send_keys(Keys.ENTER).perform()
        assert names(browser) == expected


def test_an_address_shows_its_tensor(browser: Any, page: Path) -> None:
    with open_model(MODEL) as model:
        name = list(model.tensors)[3]
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}#tensor={name}")
    chosen = browser.execute_script(
        "const s = document.getElementById('pick-tensor'); return s.selectedOptions[0].text"
    )
    assert name in chosen


def test_labels_of_the_plot_are_whole(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    cut = browser.execute_script("""return [...document.querySelectorAll('svg text')].filter(t => {
      const box = t.getBoundingClientRect(), all = t.ownerSVGElement.getBoundingClientRect();
      return box.width && (box.left < all.left - 1 || box.right > all.right + 1);
    }).map(t => t.textContent)""")
    assert cut == []


def test_on_a_phone_wide_tables_scroll_and_the_page_does_not(browser: Any, page: Path) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        browser.get(page.as_uri())
        wide, table = browser.execute_script("""const s = document.querySelector('#tensors').closest('.scroll');
          return [document.documentElement.scrollWidth, s.scrollWidth > s.clientWidth]""")
        assert wide <= 390
        assert table
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
