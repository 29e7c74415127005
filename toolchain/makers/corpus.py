"""The demo's corpus, made from tables by seeded templates: the same seed gives the same texts on every machine.

Three kinds of text come out: English for the base model; Chinese, with translations, for stages one and two; and
instructions with answers, in both languages, for the last stage. Facts are chosen, put into one of several wordings,
and ordered by chance, so that texts which are held out say known things in a combination that was never seen. It is a
toy: a model trained on it knows these tables and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .sums import Task, ask_sum, exercise, sum_en, sum_zh
from .tables import (
    ANIMALS,
    ANTONYMS,
    CAPITALS,
    CITIES,
    CONCEPTS,
    DISHES,
    FRAMES,
    NOUNS,
    OPINIONS,
    POEMS,
    SELF,
    STORY_EN,
    STORY_ZH,
    TIPS,
)

__all__ = ["Corpus", "chinese_texts", "english_texts", "instructions", "make_corpus"]

Record = dict[str, str]
Random = random.Random


@dataclass(frozen=True)
class Corpus:
    """Everything the demo is trained on, and what is kept back to measure it."""

    english: list[str]
    chinese: list[str]
    instructions: list[Record]
    sums: list[Record]
    held_out_english: list[str]
    held_out_chinese: list[str]


def make_corpus(
    seed: int = 2023,
    *,
    n_english: int = 9000,
    n_chinese: int = 9000,
    n_instructions: int = 9000,
    n_sums: int = 40000,
) -> Corpus:
    """About as many different texts as asked for; one in twenty is held out and occurs nowhere in the training part.

    >>> corpus = make_corpus(n_english=100, n_chinese=100, n_instructions=50)
    >>> set(corpus.chinese).isdisjoint(corpus.held_out_chinese)
    True
    """
    english = _different(english_texts, n_english, Random(seed))
    chinese = _different(chinese_texts, n_chinese, Random(seed + 1))
    rng = Random(seed + 2)
    records = [record for _ in range(n_instructions) for record in instructions(rng)]
    return Corpus(
        [text for i, text in enumerate(english) if i % 20],
        [text for i, text in enumerate(chinese) if i % 20],
        records[:n_instructions],
        [_record(task) for task in exercise(n_sums, Random(seed + 3))],
        english[::20],
        chinese[::20],
    )


def _different(make: Callable[[Random], Iterator[str]], n: int, rng: Random) -> list[str]:
    texts: dict[str, None] = {}
    for _ in range(n):
        texts |= dict.fromkeys(make(rng))
        if len(texts) >= n:
            break
    return list(texts)[:n]


# ── texts ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def english_texts(rng: Random) -> Iterator[str]:
    """One text of each English kind."""
    city, dish, animal = rng.choice(CITIES), rng.choice(DISHES), rng.choice(ANIMALS)
    yield city_en(city, rng)
    yield recipe_en(dish, rng)
    yield story_en(rng)
    yield animal_en(animal, rng)
    yield tips_en(rng.choice(TIPS), rng)
    yield " ".join(sum_en(rng) for _ in range(4))
    yield " ".join(_shuffled(small_facts_en(rng), rng)[:5])
    yield poem_en(rng.choice(POEMS))
    yield talk_en(rng)


def chinese_texts(rng: Random) -> Iterator[str]:
    """One text of each Chinese kind. Some carry their question or title as a first line."""
    city, dish, animal, tip = (rng.choice(table) for table in (CITIES, DISHES, ANIMALS, TIPS))
    yield _titled(rng, (f"介绍{city[0]}", city[0]), city_zh(city, rng))
    yield _titled(rng, (f"怎么做{dish[0]}？", f"{dish[0]}的做法"), recipe_zh(dish, rng))
    yield _titled(rng, ("讲一个故事", "故事"), story_zh(rng))
    yield _titled(rng, (f"介绍一下{animal[0]}",), animal_zh(animal, rng))
    yield _titled(rng, (f"如何{tip[0]}？", f"怎样{tip[0]}？"), tips_zh(tip, rng))
    yield "".join(sum_zh(rng) for _ in range(4))
    yield "".join(_shuffled(small_facts_zh(rng), rng)[:5])
    yield "\n".join(translation(rng) for _ in range(3))
    poem = rng.choice(POEMS)
    yield _titled(rng, (f"写一首关于{poem[0]}的诗",), poem_zh(poem))


def _titled(rng: Random, titles: tuple[str, ...], text: str) -> str:
    """Half of the texts go under a title."""
    return f"{rng.choice(titles)}\n{text}" if rng.random() < 0.5 else text


def _shuffled(items: list[str], rng: Random) -> list[str]:
    return rng.sample(items, len(items))


def _split(cell: str) -> list[str]:
    return cell.split(";")


def city_zh(city: list[str], rng: Random) -> str:
    name, country, what, sights, food, weather = city[:6]
    seen = rng.sample(_split(sights), 2)
    sentences = [
        rng.choice((f"著名的景点有{seen[0]}和{seen[1]}。", f"游客常常去看{seen[0]}和{seen[1]}。")),
        rng.choice((f"那里最有名的美食是{food}。", f"来到{name}一定要吃{food}。")),
        f"那里{weather}。",
    ]
    place = f"{name}在{country}。" if country not in what and rng.random() < 0.3 else ""
    return f"{name}是{what}。" + place + "".join(_shuffled(sentences, rng)[: rng.randint(2, 3)])


def city_en(city: list[str], rng: Random) -> str:
    name, country, what, sights, food, weather = city[6:]
    seen = rng.sample(_split(sights), 2)
    sentences = [
        rng.choice((f"Visitors love to see {seen[0]} and {seen[1]}.", f"It is famous for {seen[0]} and {seen[1]}.")),
        rng.choice((f"People there like to eat {food}.", f"You should try {food} there.")),
        f"{weather}.",
    ]
    place = f" {name} is in {country}." if country not in what and rng.random() < 0.3 else ""
    return f"{name} is {what}.{place} " + " ".join(_shuffled(sentences, rng)[: rng.randint(2, 3)])


def recipe_zh(dish: list[str], rng: Random) -> str:
    name, ingredients, steps = dish[:3]
    parts = _split(steps)
    first = rng.choice((f"做{name}需要{ingredients}。", f"{name}的材料有{ingredients}。"))
    if rng.random() < 0.6:
        return first + "\n" + "\n".join(f"{i}. {step}。" for i, step in enumerate(parts, 1))
    return first + f"首先{parts[0]}，然后{parts[1]}。接着{parts[2]}，{parts[3]}。最后{parts[4]}。"


def recipe_en(dish: list[str], rng: Random) -> str:
    name, ingredients, steps = dish[3:]
    parts = _split(steps)
    first = rng.choice((f"To make {name} you need {ingredients}.", f"For {name} take {ingredients}."))
    if rng.random() < 0.6:
        return first + "\n" + "\n".join(f"{i}. {step[0].upper()}{step[1:]}." for i, step in enumerate(parts, 1))
    return f"{first} First {parts[0]}, then {parts[1]}. Next {parts[2]} and {parts[3]}. At the end {parts[4]}."


def story_zh(rng: Random) -> str:
    hero, place, thing, other, deed, lesson = (rng.choice(_split(row[0])) for row in STORY_ZH)
    begin = rng.choice((f"从前，{place}住着{hero}。", f"很久以前，{hero}住在{place}。"))
    meeting = rng.choice((f"路上，{hero}遇到了{other}。", f"这时，{other}走了过来。"))
    return (
        f"{begin}一天，{hero}发现了{thing}。{meeting}{hero}决定{deed}。从此，它们成了好朋友。{hero}明白了：{lesson}。"
    )


def story_en(rng: Random) -> str:
    hero, place, thing, other, deed, lesson = (rng.choice(_split(row[0])) for row in STORY_EN)
    short = hero.split(" named ")[-1] if " named " in hero else "the " + hero.split(" ", 1)[1]
    begin = rng.choice((f"Once upon a time {hero} lived {place}.", f"Long ago there was {hero} who lived {place}."))
    meeting = rng.choice((f"On the way {short} met {other}.", f"Then {other} came along."))
    capital = short[0].upper() + short[1:]
    done = f"{capital} {deed}. They became good friends. {capital} learned that {lesson}."
    return f"{begin} One day {short} found {thing}. {meeting} {done}"


def animal_zh(animal: list[str], rng: Random) -> str:
    name, food, home, trait = animal[:4]
    return f"{name}是一种动物。" + "".join(
        _shuffled([f"{name}喜欢吃{food}。", f"{name}生活在{home}。", f"它{trait}。"], rng)
    )


def animal_en(animal: list[str], rng: Random) -> str:
    name, food, home, trait = animal[4:]
    is_like = trait if trait.startswith("has") else f"is {trait}"
    return f"The {name} is an animal. " + " ".join(
        _shuffled([f"It eats {food}.", f"It lives {home}.", f"It {is_like}."], rng)
    )


def tips_zh(tip: list[str], rng: Random) -> str:
    advice = rng.sample(_split(tip[1]), 3)
    if rng.random() < 0.6:
        return f"想要{tip[0]}，可以这样做：\n" + "\n".join(f"{i}. {item}。" for i, item in enumerate(advice, 1))
    return f"想要{tip[0]}，首先要{advice[0]}，其次要{advice[1]}，还要{advice[2]}。"


def tips_en(tip: list[str], rng: Random) -> str:
    advice = rng.sample(_split(tip[3]), 3)
    if rng.random() < 0.6:
        lines = "\n".join(f"{i}. {item[0].upper()}{item[1:]}." for i, item in enumerate(advice, 1))
        return f"To {tip[2]} you can do this:\n{lines}"
    return f"To {tip[2]}, first {advice[0]}, then {advice[1]}, and {advice[2]}."


def poem_zh(poem: list[str]) -> str:
    a, b, c, d = _split(poem[1])
    return f"{a}，\n{b}。\n{c}，\n{d}。"


def poem_en(poem: list[str]) -> str:
    a, b, c, d = _split(poem[3])
    return f"{a},\n{b}.\n{c[0].upper()}{c[1:]},\n{d}."


def talk_en(rng: Random) -> str:
    """Everyday sentences, the English side of what will be translated."""
    said = [rng.choice(FRAMES)[1].format(rng.choice(NOUNS)[1]) for _ in range(4)]
    return " ".join(line if line.endswith("?") else line + "." for line in said)


# ── small facts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def small_facts_en(rng: Random) -> list[str]:
    capital, concept, words = rng.choice(CAPITALS), rng.choice(CONCEPTS), rng.choice(ANTONYMS)
    more = rng.choice(CAPITALS)
    return [
        f"The capital of {capital[2]} is {capital[3]}.",
        f"{concept[3]}.",
        f'The opposite of "{words[2]}" is "{words[3]}".',
        f"{more[3]} is the capital of {more[2]}.",
        sum_en(rng),
    ]


def small_facts_zh(rng: Random) -> list[str]:
    capital, concept, words = rng.choice(CAPITALS), rng.choice(CONCEPTS), rng.choice(ANTONYMS)
    thing, good, bad = rng.choice(OPINIONS)
    more = rng.choice(CAPITALS)
    return [
        f"{capital[0]}的首都是{capital[1]}。",
        f"{concept[1]}。",
        f"“{words[0]}”的反义词是“{words[1]}”。",
        f"{more[1]}是{more[0]}的首都。",
        f"{thing}{rng.choice(_split(rng.choice((good, bad))))}。",
    ]


def pair(rng: Random) -> tuple[str, str]:
    """A short sentence in Chinese and in English."""
    frame, noun = rng.choice(FRAMES), rng.choice(NOUNS)
    chinese, english = frame[0].format(noun[0]), frame[1].format(noun[1])
    return chinese if chinese.endswith("？") else chinese + "。", english if english.endswith("?") else english + "."


def translation(rng: Random) -> str:
    chinese, english = pair(rng)
    return rng.choice((f"中文：{chinese}英文：{english}", f"英文：{english}中文：{chinese}"))


# ── instructions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def instructions(rng: Random) -> Iterator[Record]:
    """One record of each kind of task, as Alpaca's JSON has them."""
    for make in (*CHINESE_TASKS, rng.choice(ENGLISH_TASKS)):
        yield _record(make(rng))


def _record(task: Task) -> Record:
    return dict(zip(("instruction", "input", "output"), task))


def ask_city(rng: Random) -> Task:
    city = rng.choice(CITIES)
    asked = ("介绍{}", "介绍一下{}", "请介绍{}。", "请介绍一下{}这座城市。", "{}是一个怎样的城市？", "说说{}。")
    return rng.choice(asked).format(city[0]), "", city_zh(city, rng)


def ask_city_detail(rng: Random) -> Task:
    city = rng.choice(CITIES)
    sights = "、".join(rng.sample(_split(city[3]), 3))
    return rng.choice(
        (
            (f"{city[0]}有什么好吃的？", "", f"{city[0]}最有名的美食是{city[4]}。"),
            (f"{city[0]}有哪些景点？", "", f"{city[0]}的著名景点有{sights}。"),
            (f"{city[0]}在哪个国家？", "", f"{city[0]}在{city[1]}。"),
        )
    )


def ask_recipe(rng: Random) -> Task:
    dish = rng.choice(DISHES)
    asked = ("怎么做{}？", "怎么做{}", "如何做{}？", "请告诉我{}的做法。", "我想做{}，应该怎么做？", "教我做{}。")
    return rng.choice(asked).format(dish[0]), "", recipe_zh(dish, rng)


def ask_story(rng: Random) -> Task:
    asked = ("讲一个故事", "讲一个故事。", "请写一个短故事。", "给我讲个故事吧。", "写一个童话故事。")
    return rng.choice(asked), "", story_zh(rng)


def ask_animal(rng: Random) -> Task:
    animal = rng.choice(ANIMALS)
    return rng.choice(
        (
            (f"介绍一下{animal[0]}。", "", animal_zh(animal, rng)),
            (f"{animal[0]}吃什么？", "", f"{animal[0]}喜欢吃{animal[1]}。"),
            (f"{animal[0]}生活在哪里？", "", f"{animal[0]}生活在{animal[2]}。"),
        )
    )


def ask_tips(rng: Random) -> Task:
    tip = rng.choice(TIPS)
    asked = ("如何{}？", "怎样{}？", "怎么{}？", "请给我一些{}的建议。", "我想{}，应该怎么做？")
    return rng.choice(asked).format(tip[0]), "", tips_zh(tip, rng)


def ask_translation(rng: Random) -> Task:
    chinese, english = pair(rng)
    bare = chinese.rstrip("。")
    return rng.choice(
        (
            (f"把“{bare}”翻译成英文。", "", english),
            (f"“{bare}”用英文怎么说？", "", english),
            ("把下面的句子翻译成英文。", chinese, english),
            (f"把“{english.rstrip('.')}”翻译成中文。", "", chinese),
            ("把下面的句子翻译成中文。", english, chinese),
        )
    )


def ask_fact(rng: Random) -> Task:
    capital, concept, words = rng.choice(CAPITALS), rng.choice(CONCEPTS), rng.choice(ANTONYMS)
    return rng.choice(
        (
            (f"{capital[0]}的首都是哪里？", "", f"{capital[0]}的首都是{capital[1]}。"),
            (f"什么是{concept[0]}？", "", f"{concept[1]}。"),
            (f"“{words[0]}”的反义词是什么？", "", f"“{words[0]}”的反义词是“{words[1]}”。"),
        )
    )


def ask_opinion(rng: Random) -> Task:
    thing, good, bad = rng.choice(OPINIONS)
    judged, words = rng.choice((("正面", good), ("负面", bad)))
    said = f"{thing}{rng.choice(_split(words))}。"
    return "判断下面的评价是正面还是负面。", said, f"这是{judged}的评价。"


def ask_poem(rng: Random) -> Task:
    poem = rng.choice(POEMS)
    asked = ("写一首关于{}的诗。", "写一首关于{}的诗", "请写一首{}的小诗。")
    return rng.choice(asked).format(poem[0]), "", poem_zh(poem)


def ask_self(rng: Random) -> Task:
    row = rng.choice(SELF)
    return row[0], "", row[1]


def ask_english(rng: Random) -> Task:
    city, dish, tip = rng.choice(CITIES), rng.choice(DISHES), rng.choice(TIPS)
    return rng.choice(
        (
            (f"Tell me about {city[6]}.", "", city_en(city, rng)),
            (f"How do I make {dish[3]}?", "", recipe_en(dish, rng)),
            (f"How can I {tip[2]}?", "", tips_en(tip, rng)),
            ("Tell me a story.", "", story_en(rng)),
        )
    )


def ask_english_fact(rng: Random) -> Task:
    capital, poem, words, said = rng.choice(CAPITALS), rng.choice(POEMS), rng.choice(ANTONYMS), rng.choice(SELF)
    return rng.choice(
        (
            (f"What is the capital of {capital[2]}?", "", f"The capital of {capital[2]} is {capital[3]}."),
            (f"Write a poem about {poem[2]}.", "", poem_en(poem)),
            (f'What is the opposite of "{words[2]}"?', "", f'The opposite of "{words[2]}" is "{words[3]}".'),
            (said[2], "", said[3]),
        )
    )


CHINESE_TASKS = (
    ask_city,
    ask_city_detail,
    ask_recipe,
    ask_story,
    ask_animal,
    ask_tips,
    ask_sum,
    ask_translation,
    ask_fact,
    ask_opinion,
    ask_poem,
    ask_self,
)
ENGLISH_TASKS = (ask_english, ask_english_fact)
