"""Symbols from pictures that nobody annotated: the Grounded-SAM pipeline of paper section 3.1.

A tagger says what is in a picture, Grounding DINO where it is, SAM how far it reaches. RAM, the paper's tagger, is not
in transformers: a CLIP scored over a list of names plays its part (Chinese-CLIP for Chinese names). All models are
transformers', by name or folder; their processors use Pillow, never torchvision.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForZeroShotImageClassification,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    SamModel,
)

from zvl.data import moji
from zvl.data.detections import Detection, named, spans_of, tidy
from zvl.data.pixels import decode_image
from zvl.data.rows import Fault, Quarantine
from zvl.data.samples import LANGUAGES
from zvl.data.symbols import Symbols, Thing

PHRASES = {"en": "a photo of a {}.", "zh": "一张{}的照片。"}  # how a tagger is told a name
NARROW = 20  # a picture whose sides differ by more leaves the detector nothing to look at after resizing
SMALL = 16  # the shortest side, in pixels, of a picture that is looked at
AT_ONCE = 32  # masks in memory: SAM draws each at 1024 by 1024 first


@dataclass(frozen=True, slots=True)
class Part:
    """One model of the pipeline and its processor."""

    model: PreTrainedModel
    processor: ProcessorMixin


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Everything `find` needs, loaded once.

    vocabulary: name -> the words that the detector is asked for (`askable`); told: `told_names` of the names; tags: how
    many names a picture is searched for at most; same: overlap from which two boxes of one name are one thing.
    """

    tagger: Part
    detector: Part
    segmenter: Part | None
    vocabulary: Mapping[str, str]
    told: Tensor
    tags: int = 20
    tag_threshold: float = 0.001
    box_threshold: float = 0.35
    text_threshold: float = 0.25
    same: float = 0.8


def load_tagger(name: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Part:
    """A CLIP-like model with text and image features, such as CLIP or Chinese-CLIP, by name or folder."""
    return _load(AutoModelForZeroShotImageClassification, name, device, dtype)


def load_detector(name: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Part:
    """A Grounding DINO by name or folder."""
    return _load(AutoModelForZeroShotObjectDetection, name, device, dtype)


def load_segmenter(name: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Part:
    """A SAM by name or folder."""
    return _load(SamModel, name, device, dtype)


def detect(
    images: Mapping[str, str | Path],
    *,
    tagger: str | Path,
    detector: str | Path,
    segmenter: str | Path | None = None,
    vocabulary: Sequence[str] | Mapping[str, str] | None = None,
    language: str = "en",
    captions: Mapping[str, Sequence[str]] | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch: int = 8,
    quarantine: Quarantine | None = None,
    **thresholds: float,
) -> Iterator[Symbols]:
    """The symbols of pictures, in their order; a picture that cannot be used, or shows nothing, is put aside.

    images: path of each picture by its id. tagger, detector, segmenter: names or folders of models; without the last,
    boxes stay as the detector draws them. vocabulary: the names that may be found, in `language`; Grounding DINO reads
    English alone, so Chinese names come as a mapping to the words it is asked for, {"猫": "cat"}. The default is Moji's
    concepts. captions: by id, in `language`. thresholds: fields of `Pipeline` from `tags` on.
    Raises ValueError for a language or a vocabulary that cannot be used.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language {language!r} is not one of {', '.join(LANGUAGES)}")
    quarantine = Quarantine() if quarantine is None else quarantine
    if vocabulary is None:
        vocabulary = {concept.names[language]: concept.names["en"] for concept in moji.concepts()}
    finder = load_detector(detector, device, dtype)
    asked = askable(vocabulary, finder)
    looker = load_tagger(tagger, device, dtype)
    told = told_names(looker, list(asked), PHRASES[language])
    outliner = None if segmenter is None else load_segmenter(segmenter, device, dtype)
    pipeline = Pipeline(looker, finder, outliner, asked, told, **thresholds)
    rows = list(images.items())
    for start in range(0, len(rows), batch):
        opened = list(_opened(rows[start : start + batch], quarantine))
        results = find([picture for _, _, picture in opened], pipeline)
        for (image_id, path, picture), (found, dropped) in zip(opened, results, strict=True):
            for reason in dropped:
                quarantine.add(path, image_id, "box", reason)
            if not found:
                quarantine.add(path, image_id, "things", "nothing found")
                continue
            things = tuple(Thing(one.name, one.box) for one in found)
            said = tuple((captions or {}).get(image_id, ()))
            yield Symbols(image_id, os.fspath(path), *map(float, picture.size), said, things, language)


@torch.no_grad()
def find(pictures: Sequence[Image.Image], pipeline: Pipeline) -> list[tuple[list[Detection], list[str]]]:
    """What is where in RGB pictures: for each one `tidy`'s detections, best first, and why others were dropped.

    Pictures of one size go through the models together: a padded picture is seen differently by Grounding DINO, and
    what is found in a picture must not depend on its neighbours.
    """
    sizes: dict[tuple[int, int], list[int]] = {}
    for index, picture in enumerate(pictures):
        sizes.setdefault(picture.size, []).append(index)
    result: dict[int, tuple[list[Detection], list[str]]] = {}
    for (width, height), members in sizes.items():
        group = [pictures[index] for index in members]
        raw = ground(group, tag(group, pipeline), pipeline)
        kept = [tidy(found, width, height, pipeline.same) for found in raw]
        if pipeline.segmenter is not None:
            outlined = outline(group, [found for found, _ in kept], pipeline.segmenter)
            again = [tidy(found, width, height, pipeline.same) for found in outlined]
            kept = [(found, [*first, *later]) for (_, first), (found, later) in zip(kept, again, strict=True)]
        result.update(zip(members, kept, strict=True))
    return [result[index] for index in range(len(pictures))]


@torch.no_grad()
def told_names(tagger: Part, names: Sequence[str], phrase: str, batch: int = 256) -> Tensor:
    """(names, width) text features of length 1, one for each name said in a phrase such as "a photo of a {}."."""
    found = []
    for start in range(0, len(names), batch):
        said = [phrase.format(name) for name in names[start : start + batch]]
        tokens = tagger.processor.tokenizer(
            said, padding=True, truncation=True, split_special_tokens=True, return_tensors="pt"
        )
        found.append(tagger.model.get_text_features(**tokens.to(tagger.model.device)).pooler_output)
    return torch.nn.functional.normalize(torch.cat(found), dim=-1)


def tag(pictures: Sequence[Image.Image], pipeline: Pipeline) -> list[list[str]]:
    """The names that a tagger sees in each picture, best first: at most `tags`, each `tag_threshold` likely or more."""
    model = pipeline.tagger.model
    processor = pipeline.tagger.processor.image_processor
    pixels = processor(images=list(pictures), return_tensors="pt")["pixel_values"]
    seen = model.get_image_features(pixel_values=pixels.to(model.device, model.dtype)).pooler_output
    seen = torch.nn.functional.normalize(seen, dim=-1)
    likely = (model.logit_scale.exp() * seen @ pipeline.told.T).float().softmax(-1)  # (pictures, names)
    best = likely.topk(min(pipeline.tags, likely.shape[1]))
    names = list(pipeline.vocabulary)
    rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [[names[i] for p, i in zip(*row, strict=True) if p >= pipeline.tag_threshold] for row in rows]


def ground(
    pictures: Sequence[Image.Image], tags: Sequence[Sequence[str]], pipeline: Pipeline
) -> list[list[Detection]]:
    """Grounding DINO's boxes for the tags of each picture. Pictures must have one size.

    Tags beyond the detector's longest text are not looked for.
    """
    model, processor = pipeline.detector.model, pipeline.detector.processor
    width, height = pictures[0].size
    texts = ["".join(f"{pipeline.vocabulary[name]}. " for name in names) for names in tags]
    # A name such as "[SEP]" must stay a name: `split_special_tokens`.
    tokens = processor.tokenizer(
        texts, padding=True, truncation=True, max_length=model.config.max_text_len, split_special_tokens=True,
        return_tensors="pt",
    )  # fmt: skip
    pixels = processor.image_processor(images=list(pictures), return_tensors="pt")
    pixels["pixel_values"] = pixels["pixel_values"].to(model.dtype)
    outputs = model(**tokens.to(model.device), **pixels.to(model.device))
    dot, scale = processor.tokenizer.convert_tokens_to_ids("."), torch.tensor([width, height, width, height])
    found = []
    for row, names in enumerate(tags):
        spans = spans_of(tokens["input_ids"][row].tolist(), dot)
        centre, size = outputs.pred_boxes[row].float().cpu().chunk(2, dim=-1)
        corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1) * scale
        logits = outputs.logits[row].float().cpu()
        found.append(named(logits, corners, spans, names, pipeline.box_threshold, pipeline.text_threshold))
    return found


def outline(
    pictures: Sequence[Image.Image], found: Sequence[Sequence[Detection]], segmenter: Part
) -> list[list[Detection]]:
    """Each detection with the extent of SAM's mask for its box, in whole pixels; an empty mask leaves the box alone."""
    model, processor = segmenter.model, segmenter.processor
    inputs = processor.image_processor(images=list(pictures), return_tensors="pt")
    seen = model.get_image_embeddings(inputs["pixel_values"].to(model.device, model.dtype))
    results = []
    for row, detections in enumerate(found):
        size, fed = inputs["original_sizes"][row], inputs["reshaped_input_sizes"][row]  # (height, width)
        scale = (fed / size).flip(0).repeat(2)
        refined = []
        for start in range(0, len(detections), AT_ONCE):
            part = detections[start : start + AT_ONCE]
            asked = torch.tensor([[one.corners for one in part]]) * scale  # (1, boxes, 4)
            asked = asked.to(model.device, model.dtype)
            outputs = model(image_embeddings=seen[row : row + 1], input_boxes=asked, multimask_output=False)
            masks = outputs.pred_masks.float().cpu()
            (masks,) = processor.image_processor.post_process_masks(masks, size[None], fed[None])
            refined += [
                replace(one, corners=_extent(mask) or one.corners)
                for one, mask in zip(part, masks[:, 0], strict=True)
            ]
        results.append(refined)
    return results


def askable(vocabulary: Sequence[str] | Mapping[str, str], detector: Part) -> dict[str, str]:
    """Name -> the words that the detector is asked for: lower case, without the marks that end a phrase.

    Raises ValueError for an empty vocabulary and for words that the detector's tokenizer does not know.
    """
    pairs = vocabulary.items() if isinstance(vocabulary, Mapping) else ((name, name) for name in vocabulary)
    asked = {
        name: " ".join(words.lower().replace(".", " ").replace("?", " ").split()) for name, words in pairs
    }
    if not asked:
        raise ValueError("vocabulary: no names to look for")
    tokenizer = detector.processor.tokenizer
    ids = tokenizer(list(asked.values()), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    unknown = [name for name, row in zip(asked, ids, strict=True) if not row or tokenizer.unk_token_id in row]
    if unknown:
        raise ValueError(
            f"vocabulary: the detector cannot read {len(unknown)} names, such as {', '.join(map(repr, unknown[:5]))}; "
            "give a mapping from each name to words that it knows"
        )
    return asked


def _load(kind, name: str | Path, device: str, dtype: torch.dtype) -> Part:
    model = kind.from_pretrained(name, dtype=dtype).to(device).eval()
    return Part(model, AutoProcessor.from_pretrained(name, backend="pil"))


def _opened(rows, quarantine: Quarantine) -> Iterator[tuple[str, str | Path, Image.Image]]:
    """The pictures that can be looked at; the others are put aside with the reason."""
    for image_id, path in rows:
        try:
            picture = decode_image(Path(path).read_bytes())
        except Fault as fault:
            quarantine.add(path, image_id, fault.name, fault.reason)
            continue
        except (OSError, ValueError) as err:  # ValueError: a path that no system takes
            quarantine.add(path, image_id, "image", f"cannot be opened ({type(err).__name__})")
            continue
        if min(picture.size) < SMALL or max(picture.size) > NARROW * min(picture.size):
            quarantine.add(path, image_id, "image", "too small or too narrow")
        else:
            yield image_id, path, picture


def _extent(mask: Tensor) -> tuple[float, float, float, float] | None:
    """The corners of a mask (height, width), None where it is empty."""
    down, across = mask.any(1).nonzero()[:, 0].tolist(), mask.any(0).nonzero()[:, 0].tolist()
    return (across[0], down[0], across[-1] + 1, down[-1] + 1) if down else None
