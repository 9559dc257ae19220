"""What web pages leave in captions, removed: HTML, addresses, file names, invisible characters, runs of punctuation.

Qwen-VL's appendix A.1 cleans "the text's HTML-tagged part" and "certain unregular patterns"; which patterns is ours.
The text of an element stays, that of a script does not. What looks like a tag goes whatever its name, so no caption
brings a control token such as `</s>` or `<|im_end|>`.
"""

from __future__ import annotations

import html
import re

LONGEST = (
    10_000  # characters that are looked at: no caption is longer, and time on strangers' text is bounded
)
ROUNDS = 6  # markup is quoted twice at times, "&amp;lt;b&amp;gt;"

_LEADS = ("<", "&", "@", "://", "  ")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_UNSEEN_TEXT = re.compile(
    r"<(script|style|noscript|iframe|template)\b[^>]*>.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)", re.I | re.S
)
# Tags that stand within a line take no space; a tag with attributes has an equals sign, so "x < y and y > z" stays.
_INLINE = re.compile(
    r"</?(?:a|abbr|b|bdi|big|cite|code|em|font|i|ins|mark|q|s|small|span|strong|sub|sup|tt|u|wbr)(?:\s[^<>]*)?/?>",
    re.I,
)
_TAG = re.compile(r"<[/!?]?[A-Za-z][\w:.-]*(?:\s[^<>]*=[^<>]*|\s*)/?>|<\|[\w ]{1,40}\|>|<![A-Za-z][^<>]*>")
_CUT_TAG = re.compile(r"<[/!]?[A-Za-z][\w:-]*(?:\s+[\w:-]+\s*=[^<>]*)?\Z")  # the crawl broke off within a tag
_ADDRESS = re.compile(
    r"(?:https?|ftp)://[^\s<>\"“”，。、）)\u4e00-\u9fff]*[^\s<>\"“”，。、）)\u4e00-\u9fff.,;:!?]"
    r"|\bwww\.[\w-]+(?:\.[\w-]+)+(?:/[\w./?%&=~#+-]*)?"
    r"|[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+",
    re.I | re.A,
)
_FILE_NAME = re.compile(r"(?<![\w()-])[\w()-]+\.(?:jpe?g|png|gif|webp|bmp|tiff?)\b", re.I | re.A)
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    r"\ufff9-\ufffb\ufffe\uffff]|\u200d(?![\u2600-\u27bf\U0001f000-\U0001faff])"  # joined emoji stay, to be found
)
_RUN = re.compile(r"([!?.,;:~*_=#，。！？；：、~…-])\1{2,}")
_THREE = re.compile(r"[!?.,;:~*_=#，。！？；：、~…-]{3}")
_DOTS = re.compile(r"\.{3,}")


def clean_caption(text: str) -> tuple[str, list[str]]:
    """The cleaned caption and what was cleaned: any of html, address, file_name, invisible, repeats, space."""
    if _is_plain(text):
        return text, []
    text, changes = text[:LONGEST], []
    for _ in range(ROUNDS):  # what one step takes away may close up to what another looks for: "<\u200b/s>"
        before = text
        for name, step in _STEPS:
            if (cleaned := step(text)) != text:
                text = cleaned
                changes.append(name)
        if text == before:
            return text, list(dict.fromkeys(changes))
    return " ".join(re.sub("[<&@]", " ", text).split()), list(dict.fromkeys(changes))  # nested on purpose


def _is_plain(text: str) -> bool:
    """Whether nothing in a text can need cleaning: most captions leave here, in a fifth of the time of the patterns."""
    if not text.isprintable() or len(text) > LONGEST or text[:1] == " " or text[-1:] == " ":
        return False  # no space but " " is printable, and nothing invisible
    if any(lead in text for lead in _LEADS) or _THREE.search(text):
        return False
    return text.find(".", 0, -1) < 0 or not (_FILE_NAME.search(text) or _ADDRESS.search(text))


def _without_html(text: str) -> str:
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    if "<" not in text:
        return text
    text = _UNSEEN_TEXT.sub(" ", text)
    return _CUT_TAG.sub(" ", _TAG.sub(" ", _INLINE.sub("", text)))


def _without_runs(text: str) -> str:
    return _RUN.sub(r"\1", _DOTS.sub("…", text))


_STEPS = (
    ("html", _without_html),
    ("address", lambda text: _ADDRESS.sub(" ", text)),
    ("file_name", lambda text: _FILE_NAME.sub(" ", text)),
    ("invisible", lambda text: _INVISIBLE.sub("", text)),
    ("repeats", _without_runs),
    ("space", lambda text: " ".join(text.split())),
)
