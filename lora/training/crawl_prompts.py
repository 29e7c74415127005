"""What a language model is asked for: a template, and the topics and kinds of task that are drawn for each request.

A template may hold these words, which are replaced; everything else stays as it is:

==================  ==========================================================================
``{topics}``        ten of the 82 topics
``{kinds}``         ten of the 14 kinds of task
``{input_length}``  characters that an input may have, 80 to 120
``{output_length}`` characters that an output may have, 128 to 512
``{count}``         how many records are asked for
==================  ==========================================================================

Source: Chinese-LLaMA-Alpaca v1.1 ``scripts/crawl_prompt.py`` (Apache-2.0): its topics and kinds of task, six rules, the
lengths and how many are drawn. The sentences are ours, and name the fields, which many models forget.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from ggmlpy.files.errors import FormatError, MissingFileError

__all__ = ["KINDS", "TEMPLATE", "TOPICS", "prompt_for", "read_template"]

_TOPICS = """
科技 娱乐 体育 金融 时政 教育 医疗 旅游 美食 汽车 房产 文化 历史 地理 自然 人文 社会 法律
军事 政治 经济 文学 艺术 宗教 哲学 语言 数学 物理 化学 生物 地球科学 天文学 计算机科学 工程
建筑 设计 音乐 舞蹈 电影 电视 动漫 游戏 健康 美容 时尚 家居 家电 家具 家装 母婴 育儿 职场
工作 生活 养生 心理 情感 人际 社交 交友 恋爱 婚姻 家庭 亲子 宠物 动物 植物 食品 饮料 餐饮
酒店 购物 消费 理财 税务 法规 法院 司法 刑事 民事 行政 战争
"""
_KINDS = """
开放式生成 分类 问答 编辑 摘要 写作 翻译 写代码 分析 代码解析 常识推理 写信 抽取 推荐
"""
TOPICS, KINDS = tuple(_TOPICS.split()), tuple(_KINDS.split())
DRAWN = 10
LARGEST_TEMPLATE = 1 << 16

TEMPLATE = """请写出{count}条互不相同的指令和对应的回答，用来考察语言模型执行指令的能力。要求：
1. 主题要多样，例如：{topics}等。
2. 说法要多样，贴近真实的问题；任务类型也要多样，例如：{kinds}等。
3. 只靠文本做不到的指令，回答里要说明做不到。
4. 没有特别说明时一律用中文；指令可以是祈使句、疑问句或别的句式。
5. 每条指令配一个合适的input，内容要真实、具体、有难度，不能只是占位符，不超过{input_length}字；确实不需要时写空字符串。
6. output要真正完成任务，不能只表示答应或拒绝；信息不够时推测用户的意图再回答，少于{output_length}字。

请返回{count}条JSON格式的数据：一个数组，每条是一个对象，有instruction、input、output三个字段。
"""


def prompt_for(seed: int, number: int, n_items: int, template: str = TEMPLATE) -> str:
    """The text of request ``number``: always the same for the same seed and template.

    >>> prompt_for(0, 0, 20) == prompt_for(0, 0, 20) != prompt_for(0, 1, 20)
    True
    >>> prompt_for(0, 0, 5, "{count} records, please")
    '5 records, please'
    """
    rng = random.Random(f"{seed}:{number}")
    words = {
        "topics": "、".join(rng.sample(TOPICS, DRAWN)),
        "kinds": "、".join(rng.sample(KINDS, DRAWN)),
        "input_length": str(rng.randint(80, 120)),
        "output_length": str(rng.randint(128, 512)),
        "count": str(n_items),
    }
    for name, word in words.items():
        template = template.replace(f"{{{name}}}", word)
    return template


def read_template(path: str | os.PathLike[str]) -> str:
    """A template from a file.

    Raises:
        MissingFileError: it cannot be read.
        FormatError: it is not UTF-8 text, empty, or far too long for a prompt.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(LARGEST_TEMPLATE + 1)
    except OSError as error:
        raise MissingFileError(f"cannot read the template: {error.strerror}", path=path) from error
    if len(data) > LARGEST_TEMPLATE:
        raise FormatError("too long for a prompt", path=path, expected=f"at most {LARGEST_TEMPLATE:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8 text", path=path, offset=error.start, next_step="convert it to UTF-8") from error
    if not text.strip():
        raise FormatError("an empty template", path=path, next_step="write what is to be asked for into it")
    return text
