"""The chat page in a real browser: what it shows, and how it is used."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("selenium", reason="the PyPI package selenium is not installed")

from selenium.webdriver.common.keys import Keys

from tests.serve.browsing import needs_browser

pytestmark = needs_browser
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"> <script>document.title='owned'</script>\n\n"
    "[a link](javascript:document.title='owned') **<b onmouseover=alert(1)>bold</b>** `<i>code</i>`\n\n"
    "- <svg onload=alert(1)>\n\n```html\n</code></pre><script>document.title='owned'</script>\n```\n"
    "[good](https://example.org/a) # end"
)


def test_a_chinese_question_is_answered_and_is_there_after_a_reload(person, real):
    person.visit(real)
    person.click("#compare")
    person.ask("介绍北京")
    person.until(lambda: person.finished() and "北京" in person.text(".answer"))
    assert person.text(".mine") == "介绍北京"
    assert "tokens/s" in person.text(".answer .foot")
    said = person.text(".answer")
    person.driver.refresh()
    person.until(lambda: person.texts("#list li button:first-child"))
    person.click("#list li button")
    assert person.text(".answer") == said


def test_an_answer_is_seen_to_grow_and_can_be_stopped(person, scripted, script):
    script.text, script.pause = "一二三四五六七八九十" * 30, 0.03
    person.visit(scripted)
    person.ask("数数")
    seen = set()
    person.until(lambda: seen.add(len(person.text(".answer"))) or len(seen) > 5)
    assert person.text("#send") == "Stop"
    person.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    person.until(person.finished)
    assert "stopped" in person.text(".answer .foot")
    assert 0 < len(person.text(".answer > div")) < len(script.text)


def test_a_question_is_edited_and_an_answer_asked_for_again(person, scripted, script):
    script.text, script.pause = "好的。", 0.0
    person.visit(scripted)
    for question in ("第一", "第二"):
        person.ask(question)
        person.until(lambda: person.finished() and len(person.all(".answer")) == len(person.all(".mine")))
    script.asked.clear()
    person.press("Again")
    person.until(lambda: script.asked and person.finished())
    assert [message["content"] for message in script.asked[-1]["messages"]] == ["第一", "好的。", "第二"]
    person.click(".mine + .foot button")
    area = person.one(".mine textarea")
    area.clear()
    area.send_keys("第三", Keys.ENTER)
    person.until(lambda: person.finished() and person.texts(".mine") == ["第三"])
    assert [message["content"] for message in script.asked[-1]["messages"]] == ["第三"]


def test_two_models_answer_side_by_side(person, real):
    person.visit(real)
    assert person.one("#compare").is_selected()
    person.ask("介绍北京")
    person.until(lambda: person.finished() and len(person.all(".answer")) == 2 and all(person.texts(".answer")))
    assert person.texts(".who") == ["demo", "twin"]
    left, right = (each.rect for each in person.all(".answer"))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


def test_what_a_model_writes_is_text(person, scripted, script):
    script.text, script.pause = HOSTILE, 0.0
    person.visit(scripted)
    person.ask("<b>me</b>")
    person.until(lambda: person.finished() and "# end" in person.text(".answer"))
    assert person.text(".mine") == "<b>me</b>"
    shown = person.text(".answer")
    for piece in ("<img src=x onerror=", "<b onmouseover=alert(1)>bold</b>", "<svg onload=alert(1)>", "<i>code</i>"):
        assert piece in shown
    assert "[a link](javascript:" in shown
    assert person.texts(".answer strong") == ["<b onmouseover=alert(1)>bold</b>"]
    assert [each.get_attribute("href") for each in person.all(".answer a")] == ["https://example.org/a"]
    assert person.all(".answer img, .answer svg, .answer script, .answer i") == []
    assert person.driver.title == "ggmlpy"


MARKDOWN = """\
1. 故宫
2. 长城
   - 八达岭

3. 颐和园

> 引用
> > 再引

| 名称 | 年代 |
|---|:-:|
| 故宫 | **明** |

---
一 | 二
"""


def test_markdown_is_shown_as_lists_quotes_and_tables(person, scripted, script):
    script.text, script.pause = MARKDOWN + ">" * 3000 + " end", 0.0
    person.visit(scripted)
    person.ask("x")
    person.until(lambda: person.finished() and person.text(".answer").count("end"))
    assert person.texts(".answer ol > li > ul > li") == ["八达岭"]
    assert len(person.all(".answer > div > ol > li")) == 3
    assert person.texts(".answer > div > blockquote > blockquote > p")[:1] == ["再引"]
    assert person.texts(".answer th") == ["名称", "年代"]
    assert person.texts(".answer td strong") == ["明"]
    assert len(person.all(".answer hr")) == 1
    assert person.texts(".answer > div > p") == ["一 | 二"]


def test_an_example_is_asked_with_one_click(person, scripted, script):
    script.text, script.pause = "好。", 0.0
    person.visit(scripted)
    person.click(".hint button")
    person.until(lambda: person.finished() and person.text(".answer"))
    assert person.text(".mine") == "介绍北京"


def test_a_touch_beside_the_list_closes_it(person, scripted):
    person.visit(scripted, 500)
    person.click("#menu")
    person.until(lambda: person.one("#new").is_displayed())
    person.driver.execute_script("document.elementFromPoint(480, 400).click()")
    person.until(lambda: not person.one("#new").is_displayed())
    assert person.one("#menu").get_attribute("aria-expanded") == "false"


def test_tokens_show_their_probabilities(person, real):
    person.visit(real)
    person.click("#compare")
    person.ask("介绍北京")
    person.until(person.finished)
    person.press("Tokens")
    tokens = person.all(".token")
    assert len(tokens) > 3
    tokens[1].send_keys("")
    person.until(lambda: len(person.all("#pop tr")) >= 5)
    assert "%" in person.text("#pop")
    assert "chosen" in person.text("#pop")


def test_the_keyboard_alone_is_enough(person, scripted, script):
    """New chat, settings, a question, and its answer as tokens: with Tab, Enter and Escape."""
    script.text, script.pause = "你好。", 0.0
    person.visit(scripted)
    keys = person.driver.switch_to

    def focus(wanted: str) -> None:
        for _ in range(40):
            if keys.active_element.get_attribute("id") == wanted or keys.active_element.text == wanted:
                return
            keys.active_element.send_keys(Keys.TAB)
        raise AssertionError(f"Tab does not lead to {wanted}")

    focus("text")
    keys.active_element.send_keys("你好", Keys.ENTER)
    person.until(lambda: person.finished() and person.text(".answer"))
    assert keys.active_element.get_attribute("id") == "text", "where the next question is written"
    focus("settings")
    keys.active_element.send_keys(Keys.ENTER)
    assert person.one("dialog").get_attribute("open")
    keys.active_element.send_keys("请简短回答")
    keys.active_element.send_keys(Keys.ESCAPE)
    person.until(lambda: not person.one("dialog").get_attribute("open"))
    focus("new")
    keys.active_element.send_keys(Keys.ENTER)
    person.until(lambda: not person.all(".mine"))
    focus("text")
    keys.active_element.send_keys("再见", Keys.ENTER)
    person.until(lambda: person.finished() and person.text(".answer"))
    assert script.asked[-1]["messages"][0] == {"role": "system", "content": "请简短回答"}
    focus("Tokens")
    keys.active_element.send_keys(Keys.ENTER)
    assert person.all(".token")


@pytest.mark.parametrize("width", [500, 1100])
def test_nothing_stands_out_of_the_window(person, scripted, script, width):
    """In both languages and schemes; a long word, a wide table of code, and the settings too."""
    script.text, script.pause = "长" * 200 + "\n\n```\n" + "x" * 300 + "\n```\n\n" + "w" * 300, 0.0
    person.visit(scripted, width)
    person.ask("宽" * 80)
    person.until(person.finished)
    for _ in range(2):
        person.click("#language")
        person.click("#scheme")
        wide = person.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0
        for selector in ("#send", "#text", "#language", ".answer"):
            rect = person.one(selector).rect
            assert rect["x"] >= 0
            assert rect["x"] + rect["width"] <= width
    if width < 736:
        assert not person.one("#new").is_displayed()
        person.click("#menu")
    person.until(lambda: person.one("#settings").is_displayed() and person.one("#settings").rect["x"] >= 0)
    time.sleep(0.3)  # the list slides in
    person.click("#settings")
    box = person.one("dialog").rect
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
