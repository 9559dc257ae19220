"""Questions with short answers, read into `Sample`. The files are JSON and loaded whole.

Where several people answered, the response is the answer that `most_confident` finds, and the references are all
distinct answers.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from zvl.data.rows import (
    Fault,
    Quarantine,
    by_id,
    checked,
    id_of,
    image_of,
    is_text,
    label_of,
    list_of,
    load_json,
    named,
    one_of,
    text_of,
    value_of,
)
from zvl.data.samples import Sample, Turn

CONFIDENCE = {"yes": 1.0, "maybe": 0.5, "no": 0.0}  # what `answer_confidence` says, as a vote
OCR_VQA_SPLITS = {"train": 1, "val": 2, "test": 3}


def most_confident(answers: list) -> str:
    """The answer with most votes, each weighted by its `answer_confidence`; of equal ones the first.

    answers: texts, or objects `{answer, answer_confidence}`; one without confidence counts in full. Qwen-VL takes "the
    answer annotation based on the maximum confidence" (appendix A.2); as most annotators say "yes", it is the sum over
    those who agree that tells answers apart. Raises Fault where nobody gave an answer.
    """
    votes: dict[str, float] = defaultdict(float)
    for given in answers:
        answer, said = (
            (given.get("answer"), given.get("answer_confidence"))
            if isinstance(given, dict)
            else (given, None)
        )
        if is_text(answer):
            votes[answer.strip()] += CONFIDENCE.get(said, 1.0) if isinstance(said, str) else 1.0
    if not votes:
        raise Fault("answers", "no answer among them")
    return max(votes, key=votes.get)


def distinct_answers(given) -> tuple[str, ...] | None:
    """The distinct answers of all annotators in order, None where the field is not a list of answers."""
    if not isinstance(given, list) or not all(isinstance(answer, dict) for answer in given):
        return None
    return tuple(dict.fromkeys(a["answer"] for a in given if is_text(a.get("answer"))))


def read_vqav2(
    questions: Path,
    annotations: Path,
    images: Path,
    language: str,
    source: str = "vqav2",
    image_name: str = "COCO_train2014_{:012d}.jpg",
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """VQAv2 and OKVQA: questions and annotations joined by `question_id`.

    The response is `multiple_choice_answer`, which VQAv2 defines; where it is absent, as in OKVQA, the most confident
    answer. images: the folder of the pictures; image_name: how they are called there by image id. References are the
    answers of all annotators. Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    told = by_id(
        load_json(annotations, dict), "annotations", annotations, "question_id", ("answers",), quarantine
    )
    asked = by_id(
        load_json(questions, dict),
        "questions",
        questions,
        "question_id",
        ("image_id", "question"),
        quarantine,
    )
    for number, row in asked.items():
        note = told.get(number)
        if note is None:
            quarantine.add(questions, number, "question_id", "has no annotation")
        elif not is_text(row["question"]):
            quarantine.add(questions, number, "question", "empty or not text")
        elif not isinstance(row["image_id"], int):
            quarantine.add(questions, number, "image_id", "not a whole number")
        elif (references := distinct_answers(note["answers"])) is None:
            quarantine.add(annotations, number, "answers", "not a list of answers")
        else:
            try:
                chosen = "multiple_choice_answer" in note
                answer = (
                    text_of(note, "multiple_choice_answer") if chosen else most_confident(note["answers"])
                )
            except Fault as fault:
                quarantine.add(annotations, number, fault.name, fault.reason)
                continue
            image = os.path.join(images, image_name.format(row["image_id"]))
            kind = label_of(note, "question_type")
            yield _sample(source, language, number, image, row["question"].strip(), answer, references, kind)
    for number in told:
        if number not in asked:
            quarantine.add(annotations, number, "question_id", "has no question")


def read_okvqa(
    questions: Path,
    annotations: Path,
    images: Path,
    language: str = "en",
    source: str = "okvqa",
    image_name: str = "COCO_val2014_{:012d}.jpg",
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """OKVQA: VQAv2's format without `multiple_choice_answer`."""
    return read_vqav2(questions, annotations, images, language, source, image_name, quarantine)


def read_gqa(
    path: Path,
    images: Path,
    language: str,
    source: str = "gqa",
    image_name: str = "{}.jpg",
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """GQA: `{qid: {question, imageId, answer, types{structural, semantic, detailed}}}`; the type is the detailed one.

    images: the folder of the pictures; image_name: how they are called there by image id. Raises DataError for a file
    that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def sample(number, row) -> Sample:
        for name in ("question", "imageId", "answer"):
            value_of(row, name)
        question, answer, image_id = (text_of(row, name) for name in ("question", "answer", "imageId"))
        types = row.get("types")
        kind = label_of(types, "detailed") if isinstance(types, dict) else ""
        image = image_of(images, image_name.format(image_id), "imageId")
        return _sample(source, language, number, image, question, answer, (), kind)

    yield from checked(load_json(path, dict).items(), sample, path, quarantine)


def read_textvqa(
    path: Path,
    images: Path,
    language: str = "en",
    source: str = "textvqa",
    image_name: str = "{}.jpg",
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """TextVQA: `data[question_id, question, image_id, answers[10]]`; the response is the most frequent answer.

    images, image_name: as in `read_gqa`. Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def sample(_, row) -> Sample:
        number, answers = id_of(row, "question_id"), list_of(row, "answers")
        image = image_of(images, image_name.format(id_of(row, "image_id")), "image_id")
        references = tuple(dict.fromkeys(answer for answer in answers if is_text(answer)))
        question, answer = text_of(row, "question"), most_confident(answers)
        return _sample(source, language, number, image, question, answer, references)

    yield from checked(named(load_json(path, dict), "data", path), sample, path, quarantine)


def read_ocr_vqa(
    path: Path,
    images: Path,
    language: str = "en",
    source: str = "ocr_vqa",
    split: str | None = None,
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """OCR-VQA: `{key: {imageURL, questions[], answers[], split}}`, a sample for each question.

    The picture is called by the key, with the ending of its address, as the authors' script saves it; split: "train",
    "val" or "test", None for all. Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    wanted = None if split is None else OCR_VQA_SPLITS[split]

    def book(key: str, row) -> tuple | None:
        if wanted is not None and one_of(row, "split", tuple(OCR_VQA_SPLITS.values())) != wanted:
            return None
        questions, answers = list_of(row, "questions"), list_of(row, "answers")
        if len(questions) != len(answers):
            raise Fault("answers", "not as many as questions")
        ending = os.path.splitext(urlsplit(text_of(row, "imageURL")).path)[1]
        return key, image_of(images, key + ending, "imageURL"), questions, answers

    for key, image, questions, answers in checked(load_json(path, dict).items(), book, path, quarantine):

        def sample(number: str, asked: tuple, image: str = image) -> Sample:
            row = dict(zip(("questions", "answers"), asked, strict=True))
            return _sample(
                source, language, number, image, text_of(row, "questions"), text_of(row, "answers")
            )

        found = ((f"{key}-{k}", both) for k, both in enumerate(zip(questions, answers, strict=True)))
        yield from checked(found, sample, path, quarantine)


def read_clevr(
    path: Path,
    images: Path,
    language: str = "en",
    source: str = "clevr",
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """CLEVR: `questions[image_filename, question_index, question, answer]`; images: the folder of one split.

    Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def sample(where: str, row) -> Sample:
        image = image_of(images, text_of(row, "image_filename"), "image_filename")
        number = row.get("question_index", where)
        return _sample(source, language, number, image, text_of(row, "question"), text_of(row, "answer"))

    yield from checked(named(load_json(path, dict), "questions", path), sample, path, quarantine)


def read_vizwiz(
    path: Path,
    images: Path,
    language: str = "en",
    source: str = "vizwiz",
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """VizWiz: `[{image, question, answers[{answer, answer_confidence}], answer_type, answerable}]`.

    "unanswerable" is an answer like others. Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def sample(number: int, row) -> Sample:
        image = image_of(images, text_of(row, "image"), "image")
        if (references := distinct_answers(list_of(row, "answers"))) is None:
            raise Fault("answers", "not a list of answers")
        question, answer = text_of(row, "question"), most_confident(row["answers"])
        kind = label_of(row, "answer_type")
        return _sample(source, language, number, image, question, answer, references, kind)

    yield from checked(enumerate(load_json(path, list)), sample, path, quarantine)


def _sample(source, language, number, image, question, answer, references=(), kind="") -> Sample:
    return Sample(
        f"{source}-{language}-{number}",
        (image,),
        (Turn(question, answer),),
        references=references,
        task="vqa",
        question_type=kind,
        language=language,
        source=source,
    )
