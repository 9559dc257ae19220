"""The shipped nano backbones: whole, small enough, as their cards say; and the text they were trained on."""

import hashlib

import numpy as np
import pytest
import torch

from zvl.cards import read_card
from zvl.data import moji, wordings
from zvl.data.samples import LANGUAGES
from zvl.model import backbones
from zvl.training import reading
from zvl.training.backbones import (
    clip_batch,
    clip_loss,
    place_loss,
    region_labels,
    region_texts,
    region_weights,
    region_words,
)

FILES = {"clip": "model.safetensors", "llm": "model.safetensors", "tokenizer": "tokenizer.json"}


def _small_pool(split, seed, max_pieces=5):
    return moji.scenes(50, split, seed, 1, max_pieces)


@pytest.fixture(scope="module")
def tokenizer():
    return backbones.load_tokenizer()


@pytest.mark.parametrize("part", FILES)
def test_the_card_names_the_hash_of_the_file_that_is_shipped(part):
    fields, _ = read_card(backbones.NANO / part / "README.md", ("id", "name", "licence", "seed", "sha256"))
    content = (backbones.NANO / part / FILES[part]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == fields["sha256"]


def test_all_nano_weights_together_stay_below_16_megabytes():
    assert sum(file.stat().st_size for file in backbones.NANO.rglob("*") if file.is_file()) < 16_000_000


def test_text_survives_the_tokenizer_in_both_languages(tokenizer):
    for text in (
        "Is the grapes' colour odd?\n <human>: 100%",
        "图片里有长颈鹿和T恤吗？",
        "混合 mixed 文本 ☂️",
    ):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_chinese_name_is_one_token_whatever_stands_beside_it(tokenizer):
    for concept in moji.concepts():
        name = concept.names["zh"]
        if len(name) > 1 and all("\u4e00" <= c <= "\u9fff" for c in name):
            ids = tokenizer(f"左侧是大号的{name}，", add_special_tokens=False)["input_ids"]
            assert name in [tokenizer.decode([i]) for i in ids], name


def test_the_vit_reads_pictures_alike_whatever_else_is_in_the_batch():
    model = backbones.load_clip()
    pixels = torch.randn(3, 3, 96, 96)
    with torch.no_grad():
        together, alone = model.image_embeds(pixels), model.image_embeds(pixels[1:2])
    assert together.shape == (3, 65, backbones.WIDTH)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_shipped_backbones_are_trained():
    """Far better than chance: the ViT names boxes, the LLaMA answers from text (its card has the full score)."""
    tokenizer, model = backbones.load_tokenizer(), backbones.load_clip()
    batch = clip_batch(tokenizer, 10**6, 64, seed=5)
    with torch.no_grad():
        _, metrics = clip_loss(model, batch, region_texts(tokenizer))
    assert metrics["region_name_top1"] > 0.5  # chance is 1 in 177
    assert metrics["region_place_top1"] > 0.6  # chance is 1 in 5
    score = reading.reading_quality(backbones.load_llm(), tokenizer, scenes=40)
    assert sum(score.values()) / len(score) > 0.5, score  # chance is about 0.25


def test_region_weights_are_the_share_of_each_patch_that_a_piece_covers():
    scene = moji.Scene("x", "red", 0, (moji.Piece(7, "openmoji", 6, 12, 24),))
    grid = region_weights([scene])[0, 0].view(8, 8) * 24 * 24  # pixels of the piece in each 12-pixel patch
    assert grid[1].tolist() == [72, 144, 72, 0, 0, 0, 0, 0] and grid[2].tolist() == grid[1].tolist()
    assert float(grid.sum()) == pytest.approx(576)


def test_region_labels_are_numbers_of_the_words_that_are_true():
    for scene in moji.scenes(20, "train", seed=int(torch.randint(1000, ()))):
        labels = region_labels([scene])
        for language in LANGUAGES:
            words = region_words(language)
            for number, piece in enumerate(scene.pieces):
                said = {aspect: words[aspect][labels[aspect][0, number]] for aspect in words}
                assert said["name"] == moji.concepts()[piece.concept].names[language]
                assert said["place"] in wordings.piece_phrase(piece, language)
                assert said["size"] in wordings.piece_phrase(piece, language)
        assert (labels["name"][0, len(scene.pieces) :] == -1).all()


def test_place_loss_is_zero_only_where_every_patch_tells_its_own_row_and_column():
    where = torch.nn.Linear(64, 16, bias=False)
    number = torch.arange(64)
    with torch.no_grad():
        where.weight.zero_()
        where.weight[number // 8, number] = where.weight[8 + number % 8, number] = 50.0
    patches = torch.cat([torch.zeros(1, 64), torch.eye(64)])[None]  # each patch holds its own number
    with torch.no_grad():
        assert float(place_loss(where, patches)) < 1e-6
        assert float(place_loss(where, patches.roll(1, 1))) > 1


def test_text_of_a_step_depends_on_seed_and_step_alone(tokenizer, monkeypatch):
    monkeypatch.setattr(reading, "scene_pool", _small_pool)
    first = reading.reading_batch(reading.TextIds(tokenizer), 3, 8, 0)
    again = reading.reading_batch(reading.TextIds(tokenizer), 3, 8, 0)
    other = reading.reading_batch(reading.TextIds(tokenizer), 4, 8, 0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["input_ids"], other["input_ids"])


def test_soft_slots_hold_facts_of_the_scene_alone(tokenizer):
    ids = reading.TextIds(tokenizer)
    for seed in range(20):
        scene = moji.scenes(1, "train", seed)[0]
        words, weights, mixing = reading.soft_slots(scene, ids, np.random.default_rng(seed))
        count = 2 + len(scene.pieces)
        torch.testing.assert_close(mixing.sum(1), torch.ones(reading.NUM_SLOTS))
        # Of the number of things a slot may be silent: seen by place, it belongs to none.
        assert (mixing[:, [0, *range(2, count)]].amax(0) > 0.01).all(), "such a fact could not be read"
        assert not mixing[:, count:].any() and not weights[count:].any()
        said = {ids(" " * (lang == "en") + wordings.COLOURS[lang][scene.background])[0] for lang in LANGUAGES}
        assert said & set(words[0].tolist())


def test_slots_by_place_tell_what_lies_there():
    big, small = moji.Piece(3, "openmoji", 0, 0, 36), moji.Piece(9, "twemoji", 72, 72, 20)
    scene = moji.Scene("x", "red", 0, (big, small))
    for seed in range(20):
        share = reading.place_mixing(scene, 4, np.random.default_rng(seed)).reshape(4, 4, 4)
        np.testing.assert_allclose(share.sum(-1), 1)
        assert share[0, 0, 2] > share[3, 3, 2] == 0 and share[3, 3, 3] > share[0, 0, 3] == 0
        assert (share[:, :, 2] > 0).tolist() == [[True, True, False, False]] * 2 + [[False] * 4] * 2
        assert share[2, 1, 2:].sum() == 0 and share[2, 1, 0] > 0, "where nothing lies, the ground is seen"


def test_only_soft_rows_have_slots_in_place_of_words(tokenizer, monkeypatch):
    monkeypatch.setattr(reading, "scene_pool", _small_pool)
    batch = reading.reading_batch(reading.TextIds(tokenizer), 0, 16, 0)
    marks = (batch["input_ids"] == reading.IMAGE_ID).sum(1)
    assert torch.equal(marks, torch.where(batch["soft"], reading.NUM_SLOTS, 0))
    assert (batch["labels"] != reading.IMAGE_ID).all()
