"""What a model can do beside short answers, as figures by name: evaluation/<model>/<language>/<split>/<metric>.

Every function takes answers that were given already, sorts them by language, and returns (figures, 95% intervals) ready
for `zvl.results.record`. kind: "base" or "chat"; split: "composition", "paraphrase", "style" or "concept".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from zvl.data.samples import LANGUAGES, Sample
from zvl.evaluation import captioning, dialogue, grounding, language
from zvl.evaluation.bootstrap import interval
from zvl.evaluation.hallucination import hallucination_metrics

Figures = tuple[dict[str, float], dict[str, tuple[float, float]]]


def grounding_figures(
    kind: str, split: str, samples: Sequence[Sample], said: Sequence[str], wrong: Sequence[str], seed: int = 0
) -> Figures:
    """grounding_p50, and grounding_p50_wrong_image from the answers given with another scene's picture."""
    figures, intervals = {}, {}
    for place, rows in _by_language(kind, split, samples):
        part = [samples[row] for row in rows]
        for name, answers in (("grounding_p50", said), ("grounding_p50_wrong_image", wrong)):
            right = grounding.hits([answers[row] for row in rows], part)
            found = interval(right, None, [sample.images for sample in part], seed)
            figures[f"{place}/{name}"] = found.mean
            intervals[f"{place}/{name}"] = found.low, found.high
    return figures, intervals


def hallucination_figures(kind: str, split: str, samples: Sequence[Sample], said: Sequence[str]) -> Figures:
    """hallucination_balanced_accuracy, yes_rate and neither_rate of the yes/no questions among the samples."""
    figures = {}
    asked = [row for row, sample in enumerate(samples) if sample.question_type == "existence"]
    samples, said = [samples[row] for row in asked], [said[row] for row in asked]
    for place, rows in _by_language(kind, split, samples):
        found = hallucination_metrics([said[row] for row in rows], [samples[row] for row in rows])
        figures |= {f"{place}/{name}": value for name, value in found.items()}
    return figures, {}


def caption_figures(
    kind: str, split: str, said: Sequence[str], references: Sequence[Sequence[str]], languages: Sequence[str]
) -> Figures:
    """caption_cider, unscaled, against all references of each picture."""
    figures = {}
    for lang in LANGUAGES:
        rows = [row for row, given in enumerate(languages) if given == lang]
        if rows:
            score, _ = captioning.cider([said[row] for row in rows], [references[row] for row in rows], lang)
            figures[f"evaluation/{kind}/{lang}/{split}/caption_cider"] = score
    return figures, {}


def dialogue_figures(
    kind: str, split: str, samples: Sequence[Sample], said: Sequence[Sequence[str]], seed: int = 0
) -> Figures:
    """multi_turn_accuracy_<depth> for each depth, 1 for the first turn."""
    figures, intervals = {}, {}
    for place, rows in _by_language(kind, split, samples):
        depths = dialogue.right_by_depth([said[row] for row in rows], [samples[row] for row in rows])
        for depth, right in sorted(depths.items()):
            found = interval(right, seed=seed)
            figures[f"{place}/multi_turn_accuracy_{depth}"] = found.mean
            intervals[f"{place}/multi_turn_accuracy_{depth}"] = found.low, found.high
    return figures, intervals


def language_figures(kind: str, split: str, samples: Sequence[Sample], said: Sequence[str]) -> Figures:
    """wrong_language_share. What a sign says is read in its own script, so questions of type "read" do not count."""
    figures = {}
    kept = [row for row, sample in enumerate(samples) if sample.question_type != "read"]
    samples, said = [samples[row] for row in kept], [said[row] for row in kept]
    for place, rows in _by_language(kind, split, samples):
        languages = [samples[row].language for row in rows]
        share = language.wrong_language_share([said[row] for row in rows], languages)
        figures[f"{place}/wrong_language_share"] = share
    return figures, {}


def _by_language(kind: str, split: str, samples: Sequence[Sample]) -> Iterator[tuple[str, np.ndarray]]:
    """(the beginning of a figure's name, the rows of its language) for each language that occurs."""
    for lang in LANGUAGES:
        rows = np.flatnonzero([sample.language == lang for sample in samples])
        if len(rows):
            yield f"evaluation/{kind}/{lang}/{split}", rows
