"""The evaluation of one model: what is drawn, which features it sees, which baselines stand beside it."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import tiny_model, tiny_tokenizer

from zvl.data.samples import Sample, Turn
from zvl.evaluation import suite, vqa
from zvl.training.stages import configure_stage

TYPES = ("existence", "count")


def questions(scenes: int = 6) -> list[Sample]:
    texts = {"en": ("Is there a cat?", "yes"), "zh": ("图中有几只猫？", "两只")}
    return [
        Sample(f"{language}-{kind}-{i}", (f"{i}.png",), (Turn(*texts[language]),), question_type=kind,
               language=language)
        for i in range(scenes) for kind in TYPES for language in ("en", "zh")
    ]  # fmt: skip


def features(model, count: int = 6) -> torch.Tensor:
    size = (count, 5, model.config.vision_config.hidden_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(0)).half()


ROW = {f"{i}.png": i for i in range(6)}


def test_draw_questions_is_equal_in_number_and_a_function_of_the_seed():
    samples = questions()
    drawn = suite.draw_questions(samples, TYPES, per_type=4, seed=1)
    counts = {(lang, kind): 0 for lang in ("en", "zh") for kind in TYPES}
    for sample in drawn:
        counts[sample.language, sample.question_type] += 1
    assert set(counts.values()) == {4}
    assert drawn == suite.draw_questions(samples, TYPES, per_type=4, seed=1)
    assert drawn != suite.draw_questions(samples, TYPES, per_type=4, seed=2)


def test_draw_questions_names_the_type_that_is_short():
    with pytest.raises(ValueError, match="6 questions of type 'existence' in 'en'; 7 are wanted"):
        suite.draw_questions(questions(), TYPES, per_type=7)


def test_frozen_features_serve_a_model_without_lora():
    model = tiny_model()
    frozen = features(model)
    assert suite.image_features(model, ["no such file"], frozen) is frozen


def test_a_vision_model_with_lora_encodes_its_pictures_again(tmp_path):
    model = configure_stage(tiny_model(instruction_aware=True), "chat", 2, lora_rank=2).eval()
    with torch.no_grad():
        for name, p in model.vision_model.named_parameters():
            if ".lora_B" in name:
                p.normal_()
    paths = []
    for i in range(3):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(np.full((8, 8, 3), 80 * i, np.uint8)).save(paths[-1])
    frozen = features(model, 3)
    found = suite.image_features(model, paths, frozen, batch_size=2)
    assert found.shape == frozen.shape and found.dtype == frozen.dtype
    assert not torch.equal(found, frozen)
    torch.testing.assert_close(
        found[2:], suite.image_features(model, paths[2:], frozen), atol=0.02, rtol=0.02
    )


@pytest.mark.parametrize("kind", ["base", "chat"])
def test_evaluate_asks_with_right_and_wrong_pictures(kind, monkeypatch):
    model, tokenizer, samples = tiny_model(instruction_aware=kind == "chat"), tiny_tokenizer(), questions()
    asked = []

    def answer(model, tokenizer, images, texts, images_of, **options):
        asked.append([round(float(images[rows[0]].sum()), 3) for rows in images_of])
        return ["Yes!" if "cat" in text else "两只" for text in texts]

    monkeypatch.setattr(suite.chat, "answer", answer)
    shown = features(model)
    found = suite.evaluate(model, tokenizer, samples, shown, ROW, seed=3)
    own = [round(float(shown[ROW[sample.images[0]]].float().sum()), 3) for sample in samples]
    assert asked[0] == own
    assert all(right != wrong for right, wrong in zip(own, asked[1], strict=True))
    assert found["model"].right.all() and found["wrong_image"].samples == tuple(samples)


def test_the_whole_suite_runs_on_a_tiny_model_and_names_its_figures():
    model, tokenizer, samples = tiny_model(instruction_aware=True), tiny_tokenizer(), questions()
    answers = suite.evaluate(model, tokenizer, samples, features(model), ROW, max_new_tokens=2)
    answers |= suite.blind_baselines(tiny_model(seed=1), tokenizer, samples, samples, max_new_tokens=2)
    figures, intervals = suite.vqa_metrics("chat", answers, TYPES, minimum=6)
    for language in ("en", "zh"):
        place = f"evaluation/chat/{language}"
        assert figures[f"{place}/vqa_accuracy_majority"] == 1.0, "all training answers are alike here"
        for name in ("", *(f"_{baseline}" for baseline in suite.BASELINES)):
            low, high = intervals[f"{place}/vqa_accuracy{name}"]
            assert 0 <= low <= figures[f"{place}/vqa_accuracy{name}"] <= high <= 1
        assert {f"{place}/by_type/{kind}" for kind in TYPES} <= set(figures)
    with pytest.raises(ValueError, match="at least 200"):
        suite.vqa_metrics("chat", answers, TYPES)
    alone = suite.vqa_metrics("base", {"model": answers["model"]}, TYPES, minimum=6, split="style")[0]
    assert set(alone) == {
        f"evaluation/base/{language}/style/{name}"
        for language in ("en", "zh")
        for name in ("vqa_accuracy", *(f"by_type/{kind}" for kind in TYPES))
    }


def test_text_only_answers_do_not_depend_on_pictures(monkeypatch):
    given = []

    def answer(model, tokenizer, images, texts, images_of, **options):
        given.append((images, images_of))
        return [""] * len(texts)

    monkeypatch.setattr(suite.chat, "answer", answer)
    suite.blind_baselines(tiny_model(), tiny_tokenizer(), questions(), questions())
    assert given == [(None, [[]] * len(questions()))]


def test_answers_of_one_language_keep_their_scores():
    samples = questions(2)
    answers = suite.Answers.scored(samples, ["yes"] * len(samples))
    assert answers.of("en").right.tolist() == [1.0] * 4 and answers.of("zh").right.tolist() == [0.0] * 4
    assert answers.of("en").interval() == vqa.vqa_interval([1.0] * 4, answers.of("en").samples)
    assert answers.of("en").by_type() == {"count": 1.0, "existence": 1.0}
