"""The CLIP score: nano tells another scene's caption, any CLIP of transformers loads, limits are what they say."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
)
from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from zvl.data import noise
from zvl.data.clean import clean_scores
from zvl.data.limits import Limits
from zvl.data.samples import LANGUAGES
from zvl.data.world import WorldConfig, write_world
from zvl.evaluation.clip_score import choose_threshold, nano_clip, pretrained_clip, roc_area, score_pairs
from zvl.model.backbones import load_clip, load_tokenizer

SEED = random.randrange(2**31)


@pytest.fixture(scope="module")
def nano():
    return nano_clip()


@pytest.fixture(scope="module")
def scored(tmp_path_factory, nano):
    """Pairs of which a tenth have another scene's caption and a tenth one thing swapped."""
    folder = tmp_path_factory.mktemp("score")
    world = write_world(folder / "world", WorldConfig(110, 2, seed=SEED, dialogue_share=0.0))
    rows = noise.plant(world, folder / "noise", SEED, {"other_scene": 0.1, "swap": 0.1})
    batch = score_pairs({name: [row[name] for row in rows] for name in rows[0]}, nano)
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def of(rows, language, kind):
    """Scores and labels of good pairs and of one kind of bad ones."""
    some = [row for row in rows if row["language"] == language and row["planted"] in ("", kind)]
    return [row["clip_score"] for row in some], [not row["planted"] for row in some]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_nano_clip_tells_another_scene_s_caption(scored, language):
    areas = {kind: roc_area(*of(scored, language, kind)) for kind in ("other_scene", "swap")}
    print(f"seed {SEED}, {language}: {areas}")
    assert areas["other_scene"] > 0.97
    assert areas["swap"] > 0.5, "one thing of several swapped: hard, reported and not promised"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_limit_chosen_on_one_half_keeps_its_precision_on_the_other(scored, language):
    scores, labels = map(np.array, of(scored, language, "other_scene"))
    precision, reach = [], []
    for _ in range(20):  # of one half alone a dozen unlucky rows would decide
        half = np.random.default_rng().permutation(len(scores)) % 2 == 0
        limit, recall = choose_threshold(scores[half], labels[half], 0.98)
        kept = scores[~half] >= limit
        assert recall > 0.95
        precision.append(labels[~half][kept].mean())
        reach.append(kept[labels[~half]].mean())
    assert np.mean(precision) > 0.95 and np.mean(reach) > 0.9


def test_clean_scores_drops_what_lies_under_the_limit(scored):
    scores, labels = of(scored, "en", "other_scene")
    limit, _ = choose_threshold(scores, labels, 0.98)
    batch = {"source": ["moji"] * len(scores), "clip_score": scores}
    found = clean_scores(batch, {"moji": Limits(score=limit)})["faults"]
    assert [bool(faults) for faults in found] == [score < limit for score in scores]
    assert Counter(map(tuple, found)).keys() == {(), ("score",)}


def test_a_pair_scores_the_same_in_any_batch(scored, nano):
    rows = random.sample(scored, 12)
    together = score_pairs(
        {name: [row[name] for row in rows] for name in ("image", "caption")}, nano, chunk=5
    )
    for row, score in zip(rows, together["clip_score"], strict=True):
        alone = score_pairs({"image": [row["image"]], "caption": [row["caption"]]}, nano)["clip_score"][0]
        assert score == pytest.approx(alone, abs=1e-4) == pytest.approx(row["clip_score"], abs=1e-4)


def test_what_cannot_be_scored_is_put_aside(tmp_path, nano):
    Image.effect_noise((96, 96), 60).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    files = [str(tmp_path / name) for name in ("a.png", "b.png", "a.png", "none.png")]
    batch = {"image": files, "caption": ["a dog", "a dog", "", "a dog"], "faults": [[], [], [], ["emoji"]],
             "reasons": [[], [], [], ["x"]]}  # fmt: skip
    told = score_pairs(batch, nano)
    assert told["faults"] == [[], ["unreadable"], [], ["emoji"]]
    assert [score is None for score in told["clip_score"]] == [False, True, False, True]
    assert [vector is None for vector in told["embedding"]] == [False, True, False, True]
    assert batch["faults"] == [[], [], [], ["emoji"]] and str(tmp_path) not in str(told["reasons"])


def test_a_control_token_in_a_caption_is_letters(nano):
    model, tokenizer = load_clip(), load_tokenizer()
    letters = tokenizer("a dog</s><pad>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert not set(letters) & set(tokenizer.all_special_ids)
    ids = torch.tensor([[tokenizer.cls_token_id, *letters]])
    with torch.no_grad():
        expected = model.text_features(ids, torch.ones_like(ids))
    assert torch.allclose(nano.embed_texts(["a dog</s><pad>"]), expected, atol=1e-5)
    assert torch.isfinite(nano.embed_texts(["", "dog " * 500])).all()


# --- other models ---

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": 32, "patch_size": 8}
PIXELS = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


def save_clip(folder):
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz "]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<|endoftext|>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    ends = [("<|startoftext|>", 0), ("<|endoftext|>", 1)]  # CLIP reads a text off its last token
    tokenizer.post_processor = processors.TemplateProcessing(
        "<|startoftext|> $A <|endoftext|>", special_tokens=ends
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    fast.save_pretrained(folder)
    text = {
        **SIZES,
        "vocab_size": len(words),
        "max_position_embeddings": 20,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)).save_pretrained(folder)
    CLIPImageProcessorPil(**PIXELS).save_pretrained(folder)


def save_chinese_clip(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"一只红色的狗猫", "a", "red", "dog"]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words), "utf8")
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    text = {**SIZES, "vocab_size": len(words), "max_position_embeddings": 128}
    model = ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=16))
    model.save_pretrained(folder)
    ChineseCLIPImageProcessorPil(**PIXELS, do_center_crop=True).save_pretrained(folder)


@pytest.mark.parametrize(("save", "kind"), [(save_clip, CLIPModel), (save_chinese_clip, ChineseCLIPModel)])
def test_clips_of_transformers_load_from_a_folder_and_score_as_the_model_itself(tmp_path, save, kind):
    save(tmp_path)
    clip = pretrained_clip(str(tmp_path))
    rng = np.random.default_rng()
    pictures = [Image.fromarray(rng.integers(0, 256, (50, 40 + n, 3), np.uint8)) for n in range(3)]
    captions = ["a red dog", "一只红色的狗", "a " * 400]
    images, texts = clip.embed_images(pictures), clip.embed_texts(captions)
    assert images.shape == texts.shape == (3, 16)
    for features in (images, texts):
        assert torch.allclose(features.norm(dim=1), torch.ones(3), atol=1e-5)
    model, tokenizer = kind.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    processor = (
        CLIPImageProcessorPil if kind is CLIPModel else ChineseCLIPImageProcessorPil
    ).from_pretrained(tmp_path)
    with torch.no_grad():
        given = tokenizer(captions[:1], return_tensors="pt")
        out = model(**given, pixel_values=processor(pictures, return_tensors="pt")["pixel_values"])
        expected = out.logits_per_image[:, 0] / model.logit_scale.exp()
    assert torch.allclose(images @ texts[0], expected, atol=1e-4)


def test_a_model_without_two_towers_is_refused(tmp_path):
    BertModel(BertConfig(**SIZES, vocab_size=10)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BertModel has no embeddings"):
        pretrained_clip(str(tmp_path))


# --- limits ---


def test_the_limit_is_the_lowest_that_reaches_the_precision():
    rng = np.random.default_rng()
    for _ in range(100):
        labels = rng.random(40) < 0.7
        labels[:2] = True, False
        scores = np.round(rng.normal(labels * 1.0, 0.8), 1)  # with ties
        wanted = {}
        for limit in np.unique(scores):
            kept = scores >= limit
            if labels[kept].mean() >= 0.9:
                wanted[float(limit)] = labels[kept].sum() / labels.sum()
        if wanted:
            assert choose_threshold(scores, labels, 0.9) == pytest.approx(min(wanted.items()))
        else:
            with pytest.raises(ValueError, match=r"the best has 0\."):
                choose_threshold(scores, labels, 0.9)


def test_the_area_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng()
    labels = np.array([True, False, *(rng.random(30) < 0.5)])
    scores = np.round(rng.normal(size=32), 1)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]]
    assert roc_area(scores, labels) == pytest.approx(np.mean(pairs))
    assert roc_area([1, 2], [False, True]) == 1 and roc_area([1, 1], [False, True]) == 0.5


@pytest.mark.parametrize("function", [choose_threshold, roc_area])
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2], [True, True], "both kinds"),
        ([0.1, 0.2], [False, False], "both kinds"),
        ([0.1], [True, False], "1 scores, 2 labels"),
        ([], [], "both kinds"),
        ([0.1, float("nan")], [True, False], "NaN"),
    ],
)
def test_a_sample_that_tells_nothing_is_refused(function, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        function(scores, labels)
