"""What a dialogue claims to be in its picture: names neither denied, nor supposed, nor only asked about.

Plain rules over clauses, in English and Chinese: no parser, so that a core reads thousands of dialogues a second.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from zvl.data.lexicon import DETERMINERS, Mention
from zvl.data.samples import Turn

Find = Callable[[str], list[Mention]]  # the names of interest in a text

_QUOTED = re.compile('["“”][^"“”]*["“”]|「[^」]*」|《[^》]*》')
_I = re.IGNORECASE

_READS = re.compile(r"\b(?:read|signs? says?|say\?|words?|written)\b|[写读][着了]|[字词]", _I)

# English
_SENTENCE = re.compile(r"(?<!\d)[.](?!\d)|[.!?;\n](?=\s|$)|[:!?;\n]")
_TURNING = re.compile(  # from here on, what was denied before is denied no more
    r"\b(?:but|however|although|though|while|whereas|yet|instead|only|just|except)\b"
    r"|,\s*(?:and |so |as )?(?=(?:there|it|i|we|you|this|that|which|where|one|he|she|they|all|in|on|at)\b)"
    r"|\bno,|\bnot (?:only|just|merely|far)\b|\b(?:no|without) (?:doubt|question)\b|\bundoubtedly\b", _I
)  # fmt: skip
_DENIED = re.compile(
    r"\b(?:no|not|never|without|neither|nor|none|nothing|cannot|lacks?|lacking|instead of|rather than"
    r"|unlike|free of"
    r"|absence of|fails? to)\b|n['’]t\b", _I
)  # fmt: skip
_PERCEIVED = re.compile(
    r"\b(?:see|find|spot|detect|notice|observe|make out|recogni[sz]e|identify|show|contain|include|have"
    r"|has|depict|feature"
    r"|any|there|look like|no|without|lacks?|lacking|absence|nor|neither|know of|not (?:the|a|an))\b", _I
)  # fmt: skip
_GONE = re.compile(
    r"^(?:\s\w+){0,3}?\s(?:(?:is|are|was|were|does|do|can|could|has|have)(?:n['’]t| not|not)(?: \w+){0,3}?"
    r" (?:here|there|present|visible|shown|seen|found|appear|included|depicted|pictured|part of"
    r"|anywhere|in (?:the|this)"
    r" (?:picture|image|photo|scene|drawing)|exist)\b"
    r"|(?:is|are|seems?)(?: \w+){0,2}? (?:missing|absent|nowhere)\b|(?:cannot|can['’]t) be\b)", _I
)  # fmt: skip
_SUPPOSED = re.compile(
    r"\b(?:would|could|might|may|should|if|imagine|suppose|usually|often|typically|generally|commonly"
    r"|normally|probably"
    r"|known (?:to|for|as)|famous|tends? to|in (?:nature|the wild|real life|reality|general)"
    r"|for (?:example|instance)|e\.g"
    r"|reminds?|symboli[sz]\w*|symbol of|associated|used (?:to|for)|helps?|keeps?|needs?|need to"
    r"|real[- ]life|favou?rite"
    r"|perhaps|maybe|possibly)\b", _I
)  # fmt: skip
_COMPARED = re.compile(
    r"\b(?:like|than|such as|unlike|resembles?|as (?:\w+ )?as|similar to|kind of|shape of)(?: an?| any"
    r"| some)?(?: \w+)?\s*$",
    _I,
)
_GENERAL = re.compile(
    r"^\s*(?:live|eat|like|love|need|hunt|have|can|tend|grow|are (?:animals|mammals|\w+ that))\b", _I
)
_AFTER = frozenset(  # what may follow a name of one thing; before another noun it only says what kind of noun
    "a an the is are was were be and or but nor not in on at to of with by for from near next beside "
    "behind under over above below left right high low halfway up down here there that which who whose as "
    "than too also has have had do does can could will would may might must only alone together inside "
    "outside between among around against along across off out sat stood lay ran held stand stands seem "
    "appear asleep awake somewhere anywhere either instead toward towards facing first last where when "
    "while because so if then now this its his her their it i you we they one two both all please again "
    "still even just into onto upon within without about beneath underneath opposite".split()
)
_SEEN = re.compile(  # said of the picture, whatever was asked
    r"\bthere (?:is|are|was|were)\b|\bi (?:can |also )*see\b|\b(?:in|at|on|to) the (?:\w+ )?(?:picture|image|photo"
    r"|scene|middle|centre|center|left|right|top|bottom|background|foreground|corner|edge)\b", _I
)  # fmt: skip
_YES = re.compile(
    r"^\W*(?:yes|yeah|yep|sure|certainly|of course|indeed|correct|right\b|absolutely|definitely|true"
    r"|it does(?! not|n))",
    _I,
)
_DEFINITE = re.compile(r"\b(?:the|its|this|that|these|those)(?: \w+)?\s*$", _I)
_POLAR = re.compile(
    r"(?:^|[,.:;]\s*)(?:and |so |well, )*(?:is|are|was|were|do|does|did|can|could|will|would|has|have)\b", _I
)
_DENIAL = re.compile(
    r"\b(?:there (?:is|are) no(?:ne| such)|i see no|(?:do|does|can|could|is|are)(?:n['’]t| not|not) (?:\w+ )?"
    r"(?:see|find|any|in the|there|shown|present|exist)|no such)\b", _I
)  # fmt: skip
_ASKED_IN_GENERAL = re.compile(
    r"\b(?:used? (?:for|to)|useful|in (?:nature|the wild|real life)|usually|if|might|could (?!you\b)|good for"
    r"|purpose|would (?!you\b))", _I
)  # fmt: skip

# Chinese
_ZH_SENTENCE = re.compile(r"[。！？；!?;\n]")
_ZH_CLAUSE = re.compile(r"[，,：:]")
_ZH_TURNING = re.compile(
    "但|只有|只看|只能|只是|而是|不仅|不但|不只|不光|毫无疑问|毫无|无疑|不过|没错|无论|不远|不大|不少|不小"
)
_ZH_DENIED = re.compile(
    "没|无(?!聊|数)|不是|不存在|看不|找不|见不|未|不含|不包|缺|少了|并非|不见|非(?!常)|不像|不同于|不可能"
)
_ZH_GONE = re.compile(
    "^[^有是]{0,6}?(?:不在(?:图|画|这|里|其|场)|没有?(?:出现|被?画|在[图画这])|不存在|看不|找不|不见"
    "|未出现|缺失|没看|没找)|^(?:的话|呢)?(?:并|都|也|是)?没有$"
)
_ZH_DENIAL = re.compile(
    "(?:没有|看不到|没看到|没看见|看不见|没找到|找不到|不存在|不在图|不在画|没出现|没有出现)[^，。有]{0,4}$"
)
_ZH_SUPPOSED = re.compile(
    "如果|假如|要是|倘若|可能|也许|或许|大概|一般|通常|往往|经常|常常|平时|平常|比如|例如|譬如|适合"
    "|用来|可以用|用于|象征|让人想|联想|令人想"
    "|自然界|大自然|现实|实际生活|生活中|应该|爱吃|喜欢吃|捕食|(?<![机社聚晚约体])会(?!议|有|心|场)"
)
_ZH_COMPARED = re.compile(
    r"(?:像|似|如同|好比|不同于|形似|类似|和|与|跟)(?:是)?(?:一?[只个条匹头辆架朵把]|一)?$"
)
_ZH_UNLIKE = re.compile("^(?:不同|不一样|相似|类似|似的|一样|那样|般(?!配)|的形状|形(?!成|象|容))")
_ZH_ASKED = re.compile(
    "有(?!什么|哪|几|多)|看到(?!的)|看得到|看见|找到|找得到|找一找|存在|包含|画了|像|少了|缺|(?:这|那"
    "|它|图[上中里]|画面[上中里]?)是|比(?:一?[只个])?$|属于"
)
_ZH_ASKED_AFTER = re.compile("^(?:[^，。？]{0,4}出现|在(?:图|画面?|这)[^，。？]{0,3}吗|存在)")
_ZH_YES = re.compile("^[^一-鿿]*(?:有(?!没)|是(?!不)|对|能(?!否)|可以|看到|看得到|嗯|当然|没错|确实|正确|在)")
_ZH_POLAR = re.compile("吗|有没有|是否|是不是|能不能|能否|可否")
_ZH_IN_GENERAL = re.compile(
    "如果|假如|要是|用来|用处|用途|有什么用|好处|自然界|现实|通常|一般|什么时候|可能|会不会|会怎"
)
_ZH_SEEN = re.compile("[上下左右中前后里间边角面侧处央](?:还|也)?(?:有|是|放着|站着|画着)|看到|看见")
_ZH_PREFIX = frozenset(
    "一二两三几只条头匹个辆架棵朵把张顶双副件块小大老黑白红黄蓝绿灰紫橙花胖瘦的有是看见和与跟在这那某每另"
)


def claims(turns: tuple[Turn, ...], find: Find, language: str) -> list[Mention]:
    """The mentions, of those that `find` finds, which the turns claim to be in the picture.

    A question claims what it takes for granted, or what its answer affirms, unless the answer denies it.
    """
    asked, told = (_zh_asked, _zh_told) if language == "zh" else (_en_asked, _en_told)
    found = []
    for turn in turns:
        question, response = _unquoted(turn.instruction), _unquoted(turn.response)
        if not re.search(r"\w", response):
            continue
        in_question, in_response = find(question), find(response)
        if _READS.search(question) and len(response.split()) <= 3 and len(response) < 24:
            in_response = []  # a word that was read
        if in_response:
            found += [mention for mention in in_response if told(mention, response, question)]
        if in_question:
            found += [
                mention
                for mention in in_question
                if not any(mention.senses & said.senses for said in in_response)
                and asked(mention, question, response)
            ]
    return found


def _unquoted(text: str) -> str:
    """The text with what is quoted blanked out: a word on a sign is no thing."""
    return _QUOTED.sub(lambda match: " " * len(match[0]), text)


def _around(text: str, mention: Mention, boundary: re.Pattern) -> tuple[str, str]:
    """What stands before and after a mention, up to the nearest boundaries."""
    start, end = 0, len(text)
    for match in boundary.finditer(text):
        if match.end() <= mention.start:
            start = match.end()
        elif match.start() >= mention.end:
            end = match.start()
            break
    return text[start : mention.start], text[mention.end : end]


def _after_last(pattern: re.Pattern, text: str) -> str:
    cut = 0
    for match in pattern.finditer(text):
        cut = match.end()
    return text[cut:]


def _only_modifies(mention: Mention, after: str) -> bool:
    """Whether a name is the first part of a compound: "train station", "pear-shaped"."""
    if after[:1] == "-":
        return True
    follows = re.match(r" ([a-z]+)", after, _I)
    if not follows or mention.name.endswith("s"):
        return False
    word = follows[1].lower()
    return word not in _AFTER and not word.endswith(("s", "ing", "ed", "ly"))


def _en_told(mention: Mention, response: str, question: str) -> bool:
    before, after = _around(response, mention, _SENTENCE)
    if _only_modifies(mention, after) or _COMPARED.search(before) or _GONE.search(after):
        return False
    definite, scope = _DEFINITE.search(before), _after_last(_TURNING, before)
    if denied := _DENIED.search(scope):
        # "The cat is not beside the dog" denies no dog; "I do not see the dog" does.
        if not definite or _PERCEIVED.search(scope[denied.start() :]):
            return False
    if _SUPPOSED.search(before) or _SUPPOSED.search(after):
        return False
    if _SEEN.search(before) or _SEEN.search(after):
        return True
    introduced = [word for word in before.lower().split()[-2:] if word in DETERMINERS]
    if introduced:
        # Asked what a thing is for, one speaks of things in general; "the dog" is still one of the picture.
        return bool(definite) or not _ASKED_IN_GENERAL.search(question)
    return not _GENERAL.search(after) and not _ASKED_IN_GENERAL.search(question)


def _en_asked(mention: Mention, question: str, response: str) -> bool:
    before, after = _around(question, mention, _SENTENCE)
    if _only_modifies(mention, after) or _COMPARED.search(before) or _DENIAL.search(response):
        return False
    if _ASKED_IN_GENERAL.search(question):
        return False
    if _YES.search(response) and _POLAR.search(question):
        return True
    return bool(_DEFINITE.search(before))


@functools.cache
def _jieba():
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    jieba.initialize()
    return jieba


def _is_word(mention: Mention, text: str) -> bool:
    """Whether a Chinese name stands as a word of its own, not within another: 马 in 一匹马, not in 海马."""
    start = max(mention.start - 12, 0)
    for token, left, right in _jieba().tokenize(text[start : mention.end + 12]):
        left, right = left + start, right + start
        if left <= mention.start < right:
            if right < mention.end or (left == mention.start and right == mention.end):
                return True
            known = _jieba().dt.FREQ.get(token, 0)
            head, tail = text[left : mention.start], text[mention.end : right]
            return not known or (
                not tail.strip("们儿子上下里中旁边前后") and all(char in _ZH_PREFIX for char in head)
            )
    return True


def _zh_told(mention: Mention, response: str, question: str) -> bool:
    if not _is_word(mention, response):
        return False
    before, after = _around(response, mention, _ZH_SENTENCE)
    if _ZH_SUPPOSED.search(before) or _ZH_SUPPOSED.search(after):
        return False
    head, (tail, *later) = _ZH_CLAUSE.split(before)[-1], _ZH_CLAUSE.split(after)
    if _ZH_DENIED.search(_after_last(_ZH_TURNING, head)) or _ZH_GONE.search(tail):
        return False
    topic = re.fullmatch("(?:至于|说到|关于|要说|你说的|那|说起)?", head.strip())
    if topic and later and not tail.strip("的话呢这种动物东西 ") and _ZH_DENIAL.search(later[0]):
        return False  # "至于狗，图里没有"
    compared = _ZH_COMPARED.search(head)
    if compared and (compared[0][0] not in "和与跟" or _ZH_UNLIKE.search(tail)):
        return False
    if _ZH_UNLIKE.search(tail):
        return False
    return bool(_ZH_SEEN.search(head)) or not _ZH_IN_GENERAL.search(question)


def _zh_asked(mention: Mention, question: str, response: str) -> bool:
    if not _is_word(mention, question) or any(
        _ZH_DENIAL.search(c) for c in re.split("[，。,；！]", response)
    ):
        return False
    if _ZH_IN_GENERAL.search(question):
        return False
    before, after = _around(question, mention, _ZH_SENTENCE)
    only_asked = _ZH_ASKED.search(before) or _ZH_ASKED_AFTER.search(after)
    if _ZH_POLAR.search(question) and _ZH_YES.search(response):
        return not re.search("像|比(?:一?[只个])?$", before)
    return not only_asked
