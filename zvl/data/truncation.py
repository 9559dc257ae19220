"""Does a text stop before its sentence does?

Short answers ("red", "on the left"), boxes and items of a list need no full stop; from some length on an answer is a
sentence, and ends as one.
"""

from __future__ import annotations

import re

_I = re.IGNORECASE
_PAIR = r"[(\[]\s*(-?\d+(?:\.\d+)?)\s*[,，]\s*(-?\d+(?:\.\d+)?)\s*[)\]]"
ANY_BOX = re.compile(
    rf"{_PAIR}\s*[,，]?\s*(?:to|[-–至到])?\s*{_PAIR}"
    r"|[(\[]\s*(-?\d+(?:\.\d+)?)\s*[,，]\s*(-?\d+(?:\.\d+)?)\s*[,，]\s*(-?\d+(?:\.\d+)?)\s*[,，]\s*(-?\d+(?:\.\d+)?)\s*[)\]]"
)
SOMETHING = re.compile(r"[^\W_]")
UNITS = re.compile(r"[\u3400-\u9fff]|[^\W_]+")
_POINT = re.compile(r"(?<!\),)(?<!\), )\(\d+,\s*\d+\)$")  # one corner without the other
_CUT_WORDS = re.compile(
    r"(?:\b(?:the|an?|and|or|but|because|which|with|than|such as|although|though|while|whereas|if|whose"
    r"|of|from|into|between|most|its|their|his|her|my|your|our|very|for"
    r"|by|(?<!ing )at|(?<!ing )to|as|moreover|however|therefore|who|when|also|how|what|often|about"
    r"|during|through|without|within|be|been|being|seems|looks|like|until"
    r"|since|against|among|nor|every|some|says|named|called|labelled)"
    r"|(?<!\bthey )(?<!\bthere )(?<!\bthis )(?<!\bthat )(?<!\bone )(?<!\bit )(?<!\bthese )(?<!\bhe )(?<!\bshe )"
    r"\b(?:is|are|was|were|has)|(?<!is )(?<!are )(?<!turned )(?<!switched )(?<!lights )\bon)$",
    _I,
)
_ZH_CUT_WORDS = re.compile(
    "(?:和|与|及|或|或者|以及|并且|而且|因为|所以|但是|但|虽然|然后|例如|比如|要么是|还是"
    "|是(?<!的是)(?<!^是)(?<!不是)(?<!就是)(?<!都是)(?<!也是)|(?<!是)它们?(?<!^它)(?<!^它们)|以|把|被"
    "|从|向|对|最|位于|作为|由于|大量|其|这|那|该|并|而|且|则|却|也|还|都|很|非常|更|十分|比较|许多"
    "|各种|这种|那种|从而|为了|关于|由|给|让|使|如|即|即使|如果|当|若|不仅"
    "|包括|包含|放在|看起来|似乎|好像|正在|在于|我们|人们|此外|另外|首先|其次|不过|然而|因此|于是|尽管"
    "|既|除了|只要|只有|(?<![一二两三四五六七八九十几那这哪每])只|无论|随着|以便|直到|同时|尤其是|特别是|离|比|跟|往|朝|[边中里处面旁还]有|(?:画面?"
    "|图片?|图像|照片|场景|背景)的|(?<!第)一|[是有和着]一[个只种]|(?<!存)在)$"
)
_ZH_WHOLE = re.compile(  # words that end as cut sentences do, and may end an answer
    "(?:可以|温和|柔和|暖和|缓和|饱和|方向|自由|理由|应该|适当|相当|天使|规则|对比|距离|不对|得对|相对|期一|归还|立即|首都|一把|两把|几把|总和)$"
)
_OPEN_END = re.compile(r"[,，、：:;；—(（\[“-]$|\.\.\.$|…$")
_COMMA_END = re.compile(r"[,，、；—(（\[“-]$")
_STOP = re.compile(r"[.!?。！？~～*`|][\"'”’」』)）\]】]*$")
_CLOSED = re.compile(r"[\])）】>\"”」》]$|\d%?$")  # a quoted word, a box or a number ends a short answer
_FINITE = re.compile(
    r"\b(?:is|are|was|were|has|have|sees|shows?|can|could|would|will|may|might|seems?|looks?|stands?"
    r"|sits?|lies|(?<!i )see|appears?|do|does|think|there)\b", _I
)  # fmt: skip
_ITEM = re.compile(r"^\s*(?:[-*•·]|\d+[.)、．])\s*\S")
LONG = {"en": 6, "zh": 10}  # words or characters from which on an answer is a sentence, and ends as one


def cut(text: str, language: str, told: bool) -> str:
    """How a text is cut off, "" where it is not. told: whether it is an answer; a question may lack its mark."""
    if SOMETHING.search(text) is None:
        return ""  # empty, which is another rule's
    if (
        any(text.count(a) != text.count(b) for a, b in ("()", "（）", "“”", "[]", "「」"))
        or text.count('"') % 2
    ):
        if not re.search(r"(?:^|\s)(?:\d+|[a-z])\)", text) and not re.search(r'\d"', text):  # 1) or 5"
            return "leaves a bracket or a quotation open"
    end = text[-40:]  # patterns of the end need not read the rest
    if _POINT.search(end):
        return "ends in the middle of a box"
    if (_OPEN_END if told else _COMMA_END).search(end):
        return "ends in the middle"
    if end[-1].isalpha() and len(UNITS.findall(text)) > 2 and not _ZH_WHOLE.search(end):
        if (_CUT_WORDS if language == "en" else _ZH_CUT_WORDS).search(end):
            return "ends in the middle"
    if not told or _STOP.search(end) or (_CLOSED.search(end) and _words(text) < LONG[language]):
        return ""
    last = text.splitlines()[-1]
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and all(_ITEM.search(line) and _STOP.search(line) for line in lines[:-1]):
        return "does not end its list"
    if _ITEM.search(last) and not re.search(r"[.。]\s*\d+[.、]", last):
        return ""  # items of a list
    size = len(UNITS.findall(last))
    if re.search(r"[.!?。！？](?:\s|(?=[\u3400-\u9fff]))", last) and size > 3:
        return "begins a sentence and does not end it"
    sentence = language == "zh" or size >= 12 or _FINITE.search(last) or re.search(r"[:;] ", last)
    return "does not end its sentence" if sentence and size >= LONG[language] else ""


def ends(text: str) -> bool:
    """Whether a text ends as sentences do."""
    return _STOP.search(text[-40:]) is not None


def breaks_off(text: str, language: str) -> bool:
    """Whether a text begins as a sentence does and does not end as one: no word or two, no number, box or quotation."""
    if ends(text) or not text or _CLOSED.search(text[-40:]) or _ITEM.search(text):
        return False
    return len(UNITS.findall(text)) > (1 if language == "en" else 3) and (
        language == "zh" or text[0].isupper()
    )


def _words(text: str) -> int:
    """How many words or characters a text has beside boxes and markup."""
    return len(UNITS.findall(ANY_BOX.sub(" ", re.sub("<[^<>]*>", " ", text))))
