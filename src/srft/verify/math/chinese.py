"""Chinese words of an answer, which mean the same as the English ones that the rest of this package reads."""

from __future__ import annotations

import re

_WORDS = {
    "或者": " or ", "或": " or ", "和": " and ", "与": " and ", "且": " and ", "及": " and ", "以及": " and ",
    "无解": "no solution", "无实数解": "no real solution", "无实根": "no real root", "不存在": "does not exist",
    "空集": "empty set", "全体实数": "all real numbers", "每": " per ",
    "平方": " square ", "立方": " cubic ",
    "千米": " km ", "公里": " km ", "厘米": " cm ", "毫米": " mm ", "分米": " dm ",
    "米": " m ", "千克": " kg ", "公斤": " kg ", "毫克": " mg ", "克": " g ",
    "吨": " ton ", "毫升": " ml ", "升": " l ", "小时": " h ", "时": " h ",
    "分钟": " min ", "分": " min ", "秒": " s ", "天": " day ", "日": " day ",
    "周": " week ", "星期": " week ", "个月": " month ", "月": " month ", "年": " year ",
    "岁": " year ", "美元": " dollar ", "元": " yuan ", "块": " yuan ", "角": " jiao ",
    "欧元": " euro ", "公顷": " hectare ", "度": " degree ", "人": " person ", "名": " person ",
    **dict.fromkeys("个只条本支张次种件辆棵位朵头台间瓶袋组对", " unit "),
    "百": " hundred ", "千": " thousand ", "万": " wan ", "亿": " yi ", "百万": " million ",
}  # fmt: skip
_HAN = r"[\u4e00-\u9fff]"
_WORD = re.compile("|".join(sorted(_WORDS, key=len, reverse=True)))
_PHRASE = re.compile(rf"\\text\s*\{{([^{{}}]*{_HAN}[^{{}}]*)\}}|({_HAN}+(?:\s*/\s*{_HAN}+)?)")


def translate(text: str) -> str:
    """The Chinese words in English, as \\text{…}; a phrase with a word that is not known stays as it is."""
    return _PHRASE.sub(_phrase, text) if re.search(_HAN, text) else text


def _phrase(match: re.Match[str]) -> str:
    chinese = match[1] or match[2]
    if re.search(_HAN, _WORD.sub("", chinese)):
        return match[0]
    english = re.sub(r"\s+", " ", _WORD.sub(lambda m: _WORDS[m[0]], chinese))
    return f"\\text{{{english}}}"
