"""The chat page in a real browser: what an input method types, and what is kept when a page, a tab or the room ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("selenium", reason="the PyPI package selenium is not installed")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.serve.browsing import Site, needs_browser
from toolchain.serve.app import create_app
from toolchain.serve.guard import Guard
from toolchain.serve.work import Served

pytestmark = needs_browser


def composed_key(driver, key: str) -> None:
    """A key that the input method takes for itself, as browsers report it."""
    for kind in ("rawKeyDown", "keyUp"):
        event = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": 229}
        driver.execute_cdp_cmd("Input.dispatchKeyEvent", event)


def compose(driver, text: str) -> None:
    command = {"text": text, "selectionStart": len(text), "selectionEnd": len(text)}
    driver.execute_cdp_cmd("Input.imeSetComposition", command)


def test_enter_and_escape_belong_to_the_input_method(person, scripted, script):
    """Chinese is composed while an answer comes: neither key sends or stops; the finished text is sent with Enter."""
    script.text, script.pause = "一" * 300, 0.02
    person.visit(scripted)
    person.ask("数数")
    person.until(lambda: len(person.text(".answer > div")) > 5)
    person.one("#text").click()
    compose(person.driver, "beijing")
    composed_key(person.driver, "Escape")
    composed_key(person.driver, "Enter")
    assert person.text("#send") == "Stop", "the answer goes on"
    person.driver.execute_cdp_cmd("Input.insertText", {"text": "北京"})
    person.click("#send")
    person.until(person.finished)
    assert person.one("#text").get_property("value") == "北京"
    assert len(person.all(".mine")) == 1
    person.one("#text").send_keys(Keys.ENTER)
    person.until(lambda: person.texts(".mine") == ["数数", "北京"])
    person.click("#send")
    person.until(person.finished)


def test_escape_closes_the_settings_and_not_the_answer(person, scripted, script):
    script.text, script.pause = "一" * 300, 0.02
    person.visit(scripted)
    person.ask("数数")
    person.until(lambda: len(person.text(".answer > div")) > 5)
    person.click("#settings")
    person.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    person.until(lambda: not person.one("dialog").get_attribute("open"))
    assert person.text("#send") == "Stop"
    assert not person.one("#new").is_enabled()
    person.click("#language")
    before = len(person.text(".answer > div"))
    person.until(lambda: len(person.text(".answer > div")) > before + 5)
    person.click("#send")
    person.until(person.finished)


def test_a_page_that_ends_in_the_middle_keeps_what_had_come(person, scripted, script):
    script.text, script.pause = "一" * 900, 0.02
    person.visit(scripted)
    person.ask("数数")
    person.until(lambda: len(person.text(".answer > div")) > 10)
    person.driver.refresh()
    person.until(lambda: person.texts("#list li button:first-child") == ["数数"])
    person.click("#list li button")
    assert len(person.text(".answer > div")) >= 10
    assert "stopped" in person.text(".answer .foot")


def test_two_tabs_keep_the_conversations_of_both(person, scripted, script):
    script.text, script.pause = "好。", 0.0
    person.visit(scripted)
    driver, first = person.driver, person.driver.current_window_handle
    driver.switch_to.new_window("tab")
    try:
        driver.get(scripted.address)
        person.until(lambda: person.text("#title") != "ggmlpy")
        person.ask("第二页")
        person.until(lambda: person.finished() and person.text(".answer"))
        driver.switch_to.window(first)
        person.until(lambda: person.texts("#list li button:first-child") == ["第二页"])
        person.ask("第一页")
        person.until(lambda: person.finished() and person.text(".answer"))
        driver.switch_to.window(driver.window_handles[1])
        person.until(lambda: person.texts("#list li button:first-child") == ["第一页", "第二页"])
        person.one("#list li:nth-child(2) button:last-child").click()
    finally:
        driver.switch_to.window(driver.window_handles[1])
        driver.close()
        driver.switch_to.window(first)
    person.until(lambda: person.texts("#list li button:first-child") == ["第一页"])


def test_when_the_room_is_full_the_oldest_give_way(person, scripted, script):
    script.text, script.pause = "好。", 0.0
    person.visit(scripted)
    person.driver.execute_script(
        """const tokens = [{ token: "x".repeat(2000000), logprob: 0, top: [] }]
        const chat = (id) => ({ id, turns: [{ text: `old ${id}`, answers: [{ model: "script", text: "y", tokens }] }] })
        localStorage.setItem("ggmlpy.chats", JSON.stringify([chat(2), chat(1)]))
        let other = ""
        for (let size = 1 << 20; size >= 1; size >>= 1)
          try { localStorage.setItem("other", other + "z".repeat(size)); other += "z".repeat(size) }
          catch { /* full */ }"""
    )
    person.ask("新问题")
    person.until(lambda: person.finished() and person.text(".answer"))
    person.driver.refresh()
    person.until(lambda: person.texts("#list li button:first-child") == ["新问题", "old 2", "old 1"])
    person.driver.execute_script("localStorage.removeItem('other')")
    chats = person.driver.execute_script("return JSON.parse(localStorage.getItem('ggmlpy.chats'))")
    left = [len(chat["turns"][0]["answers"][0]["tokens"]) for chat in chats]
    assert left[1:] == [1, 0], "the oldest has lost its probabilities"


def test_an_answer_is_copied_where_the_browser_has_the_older_way_alone(person, scripted, script):
    script.text, script.pause = "好。", 0.0
    person.visit(scripted)
    person.driver.execute_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    person.ask("x")
    person.until(lambda: person.finished() and person.text(".answer"))
    person.press("Copy")
    person.until(lambda: "Copied" in person.text(".answer .foot"))


@pytest.fixture
def locked(served: Served) -> Iterator[Site]:
    site = Site(Guard(create_app([served]), key="s3cret"))
    yield site
    site.close()


def test_a_server_with_a_key_asks_for_it_once(person, locked):
    person.driver.set_window_size(1100, 800)
    person.driver.get(locked.address)
    person.until(lambda: person.one("dialog").get_attribute("open"))
    person.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    person.until(lambda: "asks for a key" in person.text(".hint"))
    assert not person.one("dialog").get_attribute("open")
    person.click("#settings")
    person.driver.find_element(By.CSS_SELECTOR, "dialog input[type=password]").send_keys("s3cret", Keys.ENTER)
    person.until(lambda: person.text("#title") == "demo")
    person.ask("介绍北京")
    person.until(lambda: person.finished() and "北京" in person.text(".answer"))
    person.complaints()  # the browser reports that it was refused at first
    person.driver.execute_script("localStorage.clear()")


def test_a_question_that_got_no_answer_is_not_sent_again(person, scripted, script):
    script.text, script.pause = "", 0.0
    person.visit(scripted)
    person.ask("第一")
    person.until(lambda: person.finished() and script.asked)
    script.text = "好。"
    person.ask("第二")
    person.until(lambda: person.finished() and person.texts(".answer > div:first-child")[-1] == "好。")
    assert [message["content"] for message in script.asked[-1]["messages"]] == ["第二"]
