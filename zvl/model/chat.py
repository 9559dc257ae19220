"""Dialogues as token ids: Ziya's prompt format, what the loss sees, and answers in words.

A turn reads `<human>:{question}\\n<bot>:{answer}</s>`; turns follow each other directly, after one `<s>`. The
loss falls on answers and their end tokens alone. An image is a run of placeholder ids, one per query.
The paper shows no prompt; this is the one of the released Ziya models.

What people type is text and stays text: `</s>`, `<image>` or `<human>:` in a question or an answer never
become the token or the role marker that they spell.
"""

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

HUMAN, BOT, END = "<human>:", "\n<bot>:", "</s>"
IMAGE = "<image>"  # the placeholder token; LLaVA's files write the same where an image stands in a text
IGNORED = -100  # labels that the loss skips

_ROLE = re.compile(r"<(human|bot)>:")
_MARKER = re.compile(rf"\n?{IMAGE}\n?")


def format_turns(turns: Iterable, num_images: int = 0) -> str:
    """The dialogue as a person reads it, one `<image>` for each image; the ids come from `encode`.

    turns: (question, answer) pairs, or records with `instruction` and `response`; a last answer of None
    leaves the prompt open.
    """
    text = ""
    for index, (question, answer) in enumerate(map(_pair, turns)):
        text += HUMAN + IMAGE * (num_images if index == 0 else 0) + _plain(question) + BOT
        text += "" if answer is None else _plain(answer) + END
    return text


def encode(
    turns: Sequence,
    tokenizer,
    num_images: int,
    num_queries: int,
    max_length: int | None = None,
    image_turns: Sequence[int] | None = None,
    qformer_tokenizer=None,
    image_token_id: int | None = None,
) -> dict:
    """One dialogue as ids and labels; `encode_all` says what comes in and out."""
    placed = None if image_turns is None else [image_turns]
    return encode_all(
        [turns], tokenizer, [num_images], num_queries, max_length, placed, qformer_tokenizer, image_token_id
    )[0]


def encode_all(
    dialogues: Sequence[Sequence],
    tokenizer,
    num_images: Sequence[int],
    num_queries: int,
    max_length: int | None = None,
    image_turns: Sequence[Sequence[int]] | None = None,
    qformer_tokenizer=None,
    image_token_id: int | None = None,
) -> list[dict]:
    """Dialogues as ids and labels, all their texts tokenised in one call.

    dialogues: for each, its turns: (question, answer) pairs, or records with `instruction` and `response`.
        A last answer of None leaves the prompt open, for generation.
    num_images: how many images each dialogue has. num_queries: placeholders per image.
    max_length: longest sequence allowed, in tokens. A longer one loses its end, but never an image, nor all
        of its answers, nor a piece of an open prompt: then ValueError.
    image_turns: for each dialogue, the turn (from 0, ascending) in which each image enters, at the start of
        the question. None is for data files: an image stands where the instruction says `<image>`, and images
        without such a marker come first. Give turns for typed text, whose `<image>` is a word like others.
    qformer_tokenizer: adds `qformer_input_ids`, one list per image: the last question, for Chat's Q-Former.
    image_token_id: the placeholder; by default the tokenizer's `<image>`.

    Returns for each dialogue a dict: `input_ids` and `labels` (lists of equal length, -100 where no loss
    falls), `num_images`, and `qformer_input_ids` if asked.
    """
    placed = num_images if image_turns is None else image_turns
    if not len(dialogues) == len(num_images) == len(placed):
        raise ValueError(
            f"encode_all: {len(dialogues)} dialogues need as many entries in num_images ({len(num_images)})"
            + ("" if image_turns is None else f" and in image_turns ({len(image_turns)})")
        )
    if image_token_id is None:
        image_token_id = _token_id(tokenizer, IMAGE, required=any(num_images))
    if tokenizer.eos_token_id is None:
        raise ValueError("encode_all: the tokenizer has no end token (eos_token)")
    dialogues = [[_pair(turn) for turn in turns] for turns in dialogues]
    layouts = [
        _layout(turns, num_images[row], None if image_turns is None else list(image_turns[row]), row)
        for row, turns in enumerate(dialogues)
    ]
    texts = list({text: None for layout in layouts for kind, text in layout})
    ids_of = dict(zip(texts, text_ids(tokenizer, texts, image_token_id), strict=True))

    encoded = []
    for row, layout in enumerate(layouts):
        input_ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        labels = [IGNORED] * len(input_ids)
        for kind, text in layout:
            if kind == "image":
                ids = [image_token_id] * num_queries
            else:
                ids = [tokenizer.eos_token_id] if kind == "end" else ids_of[text]
            input_ids += ids
            labels += ids if kind in ("answer", "end") else [IGNORED] * len(ids)
        example = {"input_ids": input_ids, "labels": labels, "num_images": num_images[row]}
        if max_length is not None and len(input_ids) > max_length:
            _cut(example, max_length, image_token_id, layout[-1][0] != "end", row)
        encoded.append(example)

    if qformer_tokenizer is not None:
        questions = [_MARKER.sub(" ", turns[-1][0]) for turns in dialogues]
        instructions = instruction_ids(qformer_tokenizer, questions)
        for example, ids in zip(encoded, instructions, strict=True):
            example["qformer_input_ids"] = [ids] * example["num_images"]
    return encoded


def instruction_ids(tokenizer, texts: Sequence[str], max_length: int = 32) -> list[list[int]]:
    """Instructions for the Q-Former: `[CLS]`, then the text, at most `max_length` tokens in all."""
    start = tokenizer.cls_token_id
    if start is None:
        start = _token_id(tokenizer, "[CLS]", required=True)
    return [[start, *ids[: max_length - 1]] for ids in text_ids(tokenizer, [text.strip() for text in texts])]


def spaced(text: str) -> str:
    """The text with a space before its first word, as LLaMA's own tokenizer adds it.

    A byte-level tokenizer knows "tiger" and " tiger" as two words; an answer must be the word that stood in a sentence.
    """
    return f" {text}" if text[:1].isascii() and text[:1].isalpha() else text


def text_ids(tokenizer, texts: Sequence[str], image_token_id: int | None = None) -> list[list[int]]:
    """Ids of plain text: what is typed like a control token becomes the tokens of its letters.

    Tokenizers that cannot split a control token lose it instead: its id never comes back from here.
    """
    if not texts:
        return []
    rows = tokenizer([spaced(text) for text in texts], add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    control = {*tokenizer.all_special_ids, image_token_id} - {tokenizer.unk_token_id}
    return [[token for token in ids if token not in control] for ids in rows]


def collate(
    encoded: Sequence[dict], pad_id: int, side: str = "right", qformer_pad_id: int = 0, multiple: int = 1
) -> dict[str, Tensor]:
    """Encoded dialogues as one batch.

    side: where padding goes: "right" for training, "left" for generation.
    multiple: lengths are rounded up to it; few different shapes keep the memory of a long training small.
    Returns input_ids, attention_mask, labels, each (batch, length) long, and where the dialogues carry
    instructions and any image, qformer_input_ids and qformer_attention_mask, (images, length), padded right.
    """
    if side not in ("left", "right"):
        raise ValueError(f"collate: side is {side!r}, allowed are 'left' and 'right'")
    ids = [example["input_ids"] for example in encoded]
    batch = {
        "input_ids": _pad(ids, pad_id, side, multiple),
        "attention_mask": _pad([[1] * len(row) for row in ids], 0, side, multiple),
        "labels": _pad([example["labels"] for example in encoded], IGNORED, side, multiple),
    }
    instructions = [row for example in encoded for row in example.get("qformer_input_ids", ())]
    if instructions:
        batch["qformer_input_ids"] = _pad(instructions, qformer_pad_id, "right", multiple)
        batch["qformer_attention_mask"] = _pad([[1] * len(row) for row in instructions], 0, "right", multiple)
    return batch


def answer(
    model,
    tokenizer,
    images: Tensor | None,
    questions: Sequence[str],
    images_of: Sequence[Sequence[int]] | None = None,
    qformer_tokenizer=None,
    batch_size: int = 64,
    max_new_tokens: int = 32,
    histories: Sequence[Sequence] | None = None,
    image_turns: Sequence[Sequence[int]] | None = None,
    **generation,
) -> list[str]:
    """Answers to many questions, each the next turn of its own dialogue; greedy by default.

    images: pixels (N, 3, H, W), or the vision model's features (N, patches, width), or None for text alone.
    images_of: for each question the rows of `images` that it is about, none or several; by default row i for
        question i.
    histories: for each question the turns before it, (question, answer) pairs; none by default.
    image_turns: for each question the turn in which each of its images enters, from 0; by default all in turn 0.
    generation: whatever generate() of transformers takes.
    """
    if images_of is None:
        images_of = [()] * len(questions) if images is None else [(row,) for row in range(len(images))]
    if len(images_of) != len(questions):
        raise ValueError(f"answer: {len(questions)} questions, but images for {len(images_of)}")
    histories = [()] * len(questions) if histories is None else histories
    if len(histories) != len(questions):
        raise ValueError(f"answer: {len(questions)} questions, but histories for {len(histories)}")
    _check_instructions(model, qformer_tokenizer)
    examples = encode_all(
        [[*map(_pair, past), (question, None)] for past, question in zip(histories, questions, strict=True)],
        tokenizer,
        [len(rows) for rows in images_of],
        model.config.num_query_tokens,
        image_turns=[[0] * len(rows) for rows in images_of] if image_turns is None else image_turns,
        qformer_tokenizer=qformer_tokenizer if model.config.instruction_aware else None,
        image_token_id=model.config.image_token_id,
    )
    answers = [""] * len(questions)
    order = sorted(range(len(questions)), key=lambda row: len(examples[row]["input_ids"]))  # little padding
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        shown = [image for row in rows for image in images_of[row]]
        texts = _generate(
            model, tokenizer, [examples[row] for row in rows], images, shown, max_new_tokens, **generation
        )
        for row, text in zip(rows, texts, strict=True):
            answers[row] = text
    return answers


def chat(
    model,
    tokenizer,
    images: Tensor | Sequence[Tensor] | None,
    question: str,
    history: Sequence = (),
    image_turns: Sequence[int] | None = None,
    qformer_tokenizer=None,
    max_new_tokens: int = 64,
    **generation,
) -> str:
    """The model's answer to `question`, the next turn of a dialogue about `images`.

    images: pixels (3, H, W) each, or features (patches, width) each, stacked or as a list; None for none.
    history: the turns so far, (question, answer) pairs; to go on, append (question, this answer).
    image_turns: the turn in which each image enters, counted from 0 through history to this question; by
        default all enter in turn 0.
    A dialogue too long for the language model loses its oldest turns, but keeps its images.
    """
    images = torch.stack(list(images)) if images is not None and len(images) else None
    num_images = 0 if images is None else len(images)
    turns = [*map(_pair, history), (question, None)]
    places = [0] * num_images if image_turns is None else list(image_turns)
    _check_instructions(model, qformer_tokenizer)
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    while True:
        example = encode(
            turns,
            tokenizer,
            num_images,
            model.config.num_query_tokens,
            image_turns=places,
            qformer_tokenizer=qformer_tokenizer if model.config.instruction_aware else None,
            image_token_id=model.config.image_token_id,
        )
        if longest is None or len(turns) == 1 or len(example["input_ids"]) + max_new_tokens <= longest:
            break
        turns, places = turns[1:], [max(turn - 1, 0) for turn in places]
    return _generate(model, tokenizer, [example], images, range(num_images), max_new_tokens, **generation)[0]


@torch.no_grad()
def _generate(model, tokenizer, examples, images, shown, max_new_tokens, **generation) -> list[str]:
    """Answers to a batch of open prompts; `shown`: the row of `images` for each run of placeholders."""
    pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    inputs = collate(examples, pad_id, side="left")
    del inputs["labels"]
    if len(shown):
        rows, inputs["image_index"] = torch.tensor(list(shown)).unique(return_inverse=True)
        inputs["pixel_values" if images.ndim == 4 else "image_embeds"] = images[rows.to(images.device)]
    training = model.training
    model.eval()
    try:
        new_ids = model.generate(
            **{name: tensor.to(model.device) for name, tensor in inputs.items()},
            max_new_tokens=max_new_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=pad_id,
            **generation,
        )
    finally:
        model.train(training)
    texts = tokenizer.batch_decode(new_ids, skip_special_tokens=True)
    # A model that goes on as the other speaker is cut off there.
    return [_ROLE.split(text, maxsplit=1)[0].strip() for text in texts]


def _layout(turns: list[tuple], images: int, image_turns: list[int] | None, row: int) -> list[tuple]:
    """The pieces of one dialogue in order: (kind, text), kind one of "text", "image", "answer", "end"."""
    if not turns:
        raise ValueError(f"encode_all: dialogue {row} has no turns")
    if image_turns is None:
        marked = min(images, sum(len(_MARKER.findall(question)) for question, _ in turns))
        image_turns = [0] * (images - marked)
    else:
        marked = 0
        known = all(0 <= turn < len(turns) for turn in image_turns)
        if len(image_turns) != images or not known or image_turns != sorted(image_turns):
            raise ValueError(
                f"encode_all: dialogue {row}: image_turns is {image_turns}; wanted for each of "
                f"{images} images a turn from 0 to {len(turns) - 1}, ascending"
            )
    pieces = []
    for index, (question, reply) in enumerate(turns):
        pieces += [("text", HUMAN), *[("image", "")] * image_turns.count(index)]
        first, *rest = _MARKER.split(question, maxsplit=marked) if marked else [question]
        marked -= len(rest)
        pieces.append(("text", _plain(first)))
        for part in rest:
            pieces += [("image", ""), ("text", _plain(part))]
        pieces.append(("text", BOT))
        if reply is not None:
            pieces += [("answer", _plain(reply)), ("end", "")]
        elif index < len(turns) - 1:
            raise ValueError(
                f"encode_all: dialogue {row}, turn {index} has no answer; only the last may lack one"
            )
    return pieces


def _cut(example: dict, max_length: int, image_token_id: int, is_open: bool, row: int) -> None:
    ids, labels = example["input_ids"], example["labels"]
    unlabelled = all(label == IGNORED for label in labels[:max_length])
    if is_open or unlabelled or image_token_id in ids[max_length:]:
        lost = "a piece of the prompt" if is_open else "every answer" if unlabelled else "an image"
        raise ValueError(
            f"encode_all: dialogue {row} has {len(ids)} tokens; cut to max_length {max_length}, it would "
            f"lose {lost}"
        )
    example["input_ids"], example["labels"] = ids[:max_length], labels[:max_length]


def _pair(turn) -> tuple[str, str | None]:
    question, reply = (turn.instruction, turn.response) if hasattr(turn, "instruction") else turn
    return question.strip(), None if reply is None else reply.strip()


def _plain(text: str) -> str:
    # To the tokenizer a role marker is ordinary text, so a typed one would open a turn: a space disarms it.
    return _ROLE.sub(r"<\1> :", text)


def _token_id(tokenizer, token: str, required: bool) -> int | None:
    token_id = tokenizer.get_vocab().get(token)
    if token_id is None and required:
        raise ValueError(f"the tokenizer has no {token} token: add it, or give its id")
    return token_id


def _check_instructions(model, qformer_tokenizer) -> None:
    if model.config.instruction_aware and qformer_tokenizer is None:
        raise ValueError("this model's Q-Former reads instructions: give qformer_tokenizer")


def _pad(rows: Sequence[list[int]], value: int, side: str, multiple: int = 1) -> Tensor:
    longest = -(-max(map(len, rows), default=0) // multiple) * multiple
    padded = []
    for row in rows:
        padding = [value] * (longest - len(row))
        padded.append(row + padding if side == "right" else padding + row)
    return torch.tensor(padded)
