"""The rule-based detector: what a teacher gets wrong, by small named rules (paper section 3.1; the rules are ours).

A rule is a pure function (turns, symbols, language) -> why the dialogue is to be rejected, "" where it is not. The
paper names none. They err towards keeping: what is told as possible, as general or as a comparison is no claim about
the picture, and an answer may be as short as "red".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from zvl.data.boxes import boxes_in, iou
from zvl.data.claims import claims
from zvl.data.lexicon import Lexicon, default_lexicon
from zvl.data.samples import LANGUAGES, Turn
from zvl.data.symbols import UNITS as THOUSAND
from zvl.data.symbols import Symbols
from zvl.data.telltales import LEAK_WORDS, LEAKED, REFUSED
from zvl.data.truncation import ANY_BOX, SOMETHING, UNITS, breaks_off, cut, ends

Rule = Callable[[tuple[Turn, ...], Symbols, str], str]

_I = re.IGNORECASE
_HAN = re.compile(r"[\u3400-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
_OTHER_SCRIPTS = re.compile(r"[\u3040-\u30ff\uac00-\ud7af\u0400-\u04ff\u0600-\u06ff\u0e00-\u0e7f]")
_ASIDE = re.compile('["“][^"“”]*["”]|「[^」]*」|《[^》]*》|<[^<>]*>|https?://\\S+')
_READING = re.compile(
    r"\b(?:read|signs?|says?|words?|written|writing|text|letters?|brand|logo|named?)\b|[写读字词牌名]"
    r"|标志|品牌",
    _I,
)
_NAME_LIKE = re.compile(r"[A-Z0-9-]+s?|[a-z]?[A-Z]*[a-z]+[A-Z]\w*|[A-Z]")

_PLACEHOLDER = re.compile(
    r"\W*(?:n\s*/\s*a|null|todo|tbd|undefined|nan)\W*"
    r"|\W*[\[<(【（{][^\]>)】）}]*(?:response|answer|empty|insert|placeholder|question|blank|text here"
    r"|回答|答案|空|无|填写|问题|此处)[^\]>)】）}]*[\]>)】）}]\W*"
    r"|\W*(?:待补充|待填写|待定|暂无|略)\W*",
    _I,
)

TELLING = {"en": 10, "zh": 16}  # words or characters from which on an answer given twice is no coincidence
SAME_BOX = 0.5  # intersection over union from which on a told box is that of a thing

_FILLER = {
    "en": re.compile(
        r"\b(?:can|could|would|will) you (?:please )?(?:tell me|say)\b|\bi(?: would|['’]d)? (?:like"
        r"|want) to know\b|\bplease\b(?: answer)?|\b(?:once|one) (?:again|more time)\b"
        r"|\bagain\b|\btell me\b|\bas i said\b|\bnext question\b|\bquestion:|\banswer:"
        r"|\bthanks?(?: you)?\b|\b(?:so|and|also|now|okay|ok|well|hey|then|but|alright|sure)\b(?=\W)", _I
    ),
    "zh": re.compile("请问|请回答|你?您?能不?能?告诉我|请您?你?告诉我|我想知道|再问一次|再来一遍"
    "|再来一次|再说一遍|再一次|我说过|下一个问题|问题：|回答：|谢谢|那么|现在|好的|另外|还是|嗯|嘿|请"
    "|呢|那(?=它|这|你|么)"),
}  # fmt: skip
_SENTENCES = re.compile(r"(?<=[.!?。！？])\s*|\n+")

_POINT = re.compile(r"[(（]\s*\d{1,3}\s*[,，]\s*\d{1,3}\s*[)）]")
_LOOP = re.compile(r"([^\W\d].{2,40}?)\1{2,}", re.DOTALL)  # a phrase three times without anything between


def wrong_language(turns: tuple[Turn, ...], symbols: Symbols, language: str) -> str:
    """A question or an answer in another language than the row's; quotes, names and a borrowed word do not count."""
    told = " ".join((*symbols.captions, *(thing.name for thing in symbols.things))).lower()
    for number, turn in enumerate(turns, 1):
        for field, text in (("instruction", turn.instruction), ("response", turn.response)):
            if not _PLACEHOLDER.fullmatch(text) and (
                foreign := _foreign(text, turn.instruction if field == "response" else "", told, language)
            ):
                return f"turn {number}: the {field} is not in {language!r}: {foreign!r}"
    return ""


def _foreign(text: str, question: str, told: str, language: str) -> str:
    text = _ASIDE.sub(" ", text)
    if other := _OTHER_SCRIPTS.search(text):
        return other[0]
    if language == "en":
        # A word in brackets explains the one before it: "dumplings (饺子)".
        spans = re.findall(
            r"[\u3400-\u9fff]+", re.sub(r"[(（][\u3400-\u9fff]{1,6}[^()（）]{0,12}[)）]", " ", text)
        )
        if not spans or ("".join(spans) in told or (len("".join(spans)) <= 4 and _READING.search(question))):
            return ""
        return max(spans, key=len)
    words = [word for word in _LATIN.findall(text) if not _NAME_LIKE.fullmatch(word)]
    if not words:
        return ""
    han = len(_HAN.findall(text))
    if not han:
        known = all(word.lower() in told for word in words) or (len(words) <= 3 and _READING.search(question))
        return "" if known else " ".join(words)
    runs = re.findall(r"[A-Za-z][A-Za-z'’-]*(?:[ ,]+[A-Za-z'’-]+){3,}", text)
    return runs[0] if runs else " ".join(words) if len(words) > han / 2 else ""


def leaked_symbols(turns: tuple[Turn, ...], symbols: Symbols, language: str) -> str:
    """Talk of captions, annotations or coordinates as a source: the teacher is to speak as if it saw the picture.

    A point is a coordinate, too; a whole box is an answer where a box was asked for.
    """
    for number, turn in enumerate(turns, 1):
        if point := _POINT.search(ANY_BOX.sub(" ", turn.response)):
            return f"turn {number}: the response gives a point: {point[0]!r}"
    # A look for the words that every leak has is many times faster than the patterns.
    said = " ".join(text for _, text in _texts(turns)).lower()
    if language == "en" and not any(word in said for word in LEAK_WORDS):
        return ""
    return _first(LEAKED[language], turns, ("instruction", "response"), "speaks of its symbols")


def empty(turns: tuple[Turn, ...], symbols: Symbols, language: str) -> str:
    """No turns, or a turn without a word or number, or with a placeholder in its place."""
    if not turns:
        return "no turns"
    for number, turn in enumerate(turns, 1):
        for field, text in (("instruction", turn.instruction), ("response", turn.response)):
            if _is_empty(text):
                return f"turn {number}: the {field} is empty: {text!r}"
    return ""


def _is_empty(text: str) -> bool:
    return not SOMETHING.search(text) or _PLACEHOLDER.fullmatch(text) is not None


def duplicate(turns: tuple[Turn, ...], symbols: Symbols, language: str) -> str:
    """A question asked twice, a long answer given twice, one sentence twice in it, or the same words over and over;
    fillers do not count.
    """
    questions: dict[tuple[str, ...], int] = {}
    answers: list[tuple[int, Counter]] = []
    for number, turn in enumerate(turns, 1):
        asked = _units(turn.instruction, language)
        if asked and asked in questions:
            return f"turn {number}: asks again what turn {questions[asked]} asked: {turn.instruction!r}"
        questions[asked] = number
        if loop := _LOOP.search(turn.response):
            return f"turn {number}: says over and over: {loop[1]!r}"
        words = Counter(_units(turn.response, language))
        if (size := words.total()) >= TELLING[language]:
            for earlier, other in answers:
                if (words & other).total() >= 0.9 * max(size, other.total()):
                    return f"turn {number}: says again what turn {earlier} said: {turn.response!r}"
            answers.append((number, words))
            sentences = Counter(_units(part, language) for part in _SENTENCES.split(turn.response))
            if twice := [s for s, times in sentences.items() if times > 1 and len(s) > 4]:
                return f"turn {number}: says twice: {' '.join(twice[0])!r}"
    return ""


def _units(text: str, language: str) -> tuple[str, ...]:
    """Words (English) and characters (Chinese) without case, punctuation and fillers."""
    return tuple(UNITS.findall(_FILLER[language].sub(" ", text.lower())))


def truncated(turns: tuple[Turn, ...], symbols: Symbols, language: str) -> str:
    """A turn that stops before its sentence does. Short answers ("red", "on the left") and boxes need no full stop."""
    for number, turn in enumerate(turns, 1):
        for field, text in (("instruction", turn.instruction), ("response", turn.response)):
            if why := cut(text.strip(), language, field == "response"):
                return f"turn {number}: the {field} {why}: {text[-40:]!r}"
    # An answer that ran into a limit is the last; it shows beside answers that all end as sentences.
    earlier, last = turns[:-1], turns[-1].response.strip() if turns else ""
    if earlier and all(ends(turn.response.strip()) for turn in earlier) and breaks_off(last, language):
        return f"turn {len(turns)}: the response alone does not end as a sentence: {last[-40:]!r}"
    return ""


def boxes_out_of_range(turns: tuple[Turn, ...], symbols: Symbols, language: str) -> str:
    """A box that is none: not in whole thousandths from 0 to 999, or without area."""
    for number, text in _texts(turns):
        for match in ANY_BOX.finditer(text):
            corners = [value for value in match.groups() if value is not None]
            if not all(value.isdigit() and int(value) < THOUSAND for value in corners):
                return f"turn {number}: box {match[0]} is not in whole thousandths, 0 to 999"
            left, top, right, bottom = map(int, corners)
            if right <= left or bottom <= top:
                return f"turn {number}: box {match[0]} has no area"
    return ""


def strange_boxes(turns: tuple[Turn, ...], symbols: Symbols, language: str) -> str:
    """A box at which the symbols have nothing."""
    for number, text in _texts(turns):
        for box in boxes_in(text, symbols.width, symbols.height):
            if all(iou(box, thing.box) < SAME_BOX for thing in symbols.things):
                return (
                    f"turn {number}: nothing is at the box that it names, in pixels {tuple(map(round, box))}"
                )
    return ""


def refusal(turns: tuple[Turn, ...], symbols: Symbols, language: str) -> str:
    """An answer that declines, speaks as a language model, or asks for the picture."""
    return _first(REFUSED[language], turns, ("response",), "refuses")


def absent_objects(
    turns: tuple[Turn, ...], symbols: Symbols, language: str, lexicon: Lexicon | None = None
) -> str:
    """A thing claimed to be in the picture that neither boxes nor captions hold. lexicon: what things can be named."""
    lexicon = lexicon or default_lexicon()
    names = [thing.name for thing in symbols.things]
    held = lexicon.held(names, symbols.captions, symbols.language)
    # A "dog house" that the lexicon does not know hides the dog within it.
    unknown = [name for name in names if not lexicon.knows(name, symbols.language)]
    own = Lexicon({}, {}).with_names(unknown, symbols.language) if unknown else None

    def unsupported(text: str):
        found = [mention for mention in lexicon.mentions(text, language) if not mention.senses & held]
        if found and own and symbols.language == language:
            hidden = [(mention.start, mention.end) for mention in own.mentions(text, language)]
            found = [m for m in found if not any(start <= m.start and m.end <= end for start, end in hidden)]
        if found and found[-1].end >= len(text.rstrip()) and cut(text.strip(), language, told=True):
            found.pop()  # where a text is cut, its last name may be another's beginning
        return found

    # What is no answer affirms nothing of its question.
    answered = tuple(
        turn for turn in turns if not _is_empty(turn.response) and not REFUSED[language].search(turn.response)
    )
    found = claims(answered, unsupported, language)
    return f"not in the symbols: {', '.join(sorted({mention.name for mention in found}))}" if found else ""


RULES: dict[str, Rule] = {
    "empty": empty,
    "language": wrong_language,
    "refusal": refusal,
    "leaked_symbols": leaked_symbols,
    "truncated": truncated,
    "duplicate": duplicate,
    "boxes_out_of_range": boxes_out_of_range,
    "strange_boxes": strange_boxes,
    "absent_objects": absent_objects,
}


def detect(
    turns: tuple[Turn, ...], symbols: Symbols, language: str, rules: Mapping[str, Rule] = RULES
) -> dict[str, str]:
    """The rules that reject a dialogue, in order, with their reasons; empty for one to keep."""
    if language not in LANGUAGES:
        raise ValueError(f"detect: language {language!r} is not one of {', '.join(LANGUAGES)}")
    found = {name: rule(turns, symbols, language) for name, rule in rules.items()}
    return {name: reason for name, reason in found.items() if reason}


def summarise(
    verdicts: Iterable[Mapping[str, str]], rules: Mapping[str, Rule] = RULES, examples: int = 3
) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Of what `detect` said of many dialogues: how many each rule rejects, and its first few different reasons.

    Counts hold also "kept" and "rejected", the numbers of dialogues; one dialogue may count for several rules.
    """
    counts = {"kept": 0, "rejected": 0} | dict.fromkeys(rules, 0)
    told: dict[str, list[str]] = {name: [] for name in rules}
    for verdict in verdicts:
        counts["rejected" if verdict else "kept"] += 1
        for name, reason in verdict.items():
            counts[name] += 1
            if len(told[name]) < examples and reason not in told[name]:
                told[name].append(reason)
    return counts, told


def _texts(turns: tuple[Turn, ...]):
    for number, turn in enumerate(turns, 1):
        yield number, turn.instruction
        yield number, turn.response


def _first(pattern: re.Pattern, turns: tuple[Turn, ...], fields: tuple[str, ...], why: str) -> str:
    for number, turn in enumerate(turns, 1):
        for field in fields:
            if match := pattern.search(getattr(turn, field)):
                return f"turn {number}: the {field} {why}: {match[0]!r}"
    return ""
