"""Does a bilingual model answer in the language in which it is asked?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from zvl.data.samples import LANGUAGES

_HAN, _LATIN = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[A-Za-z]")
_QUOTED = re.compile('["“”][^"“”]*["“”]')


def in_wrong_language(answer: str, language: str) -> bool:
    """Whether an answer is in the other language: English with any Chinese character, Chinese drowned in Latin letters.

    Quoted words do not count: what stands on a sign is quoted as it stands there. Numbers, boxes and an empty answer
    are of no language, and so never wrong. A Chinese word with a Latin letter in it (T恤) is Chinese.
    """
    if language not in LANGUAGES:
        raise ValueError(f"in_wrong_language: language {language!r} is not one of {', '.join(LANGUAGES)}")
    text = _QUOTED.sub("", answer)
    han, latin = len(_HAN.findall(text)), len(_LATIN.findall(text))
    return han > 0 if language == "en" else latin > 2 * han


def wrong_language_share(said: Sequence[str], languages: Sequence[str]) -> float:
    """The share of answers in the wrong language. Raises ValueError for no answers or unequal numbers."""
    if not said or len(said) != len(languages):
        raise ValueError(f"wrong_language_share: {len(said)} answers in {len(languages)} languages")
    wrong = [in_wrong_language(answer, language) for answer, language in zip(said, languages, strict=True)]
    return sum(wrong) / len(wrong)
