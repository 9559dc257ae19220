"""A Q-Former on described scenes: what its patches say, that it learns from them, and that it then reads a ViT's."""

import numpy as np
import pytest
import torch
from transformers import InstructBlipQFormerConfig

from zvl.config import LoopConfig
from zvl.data import moji, wordings
from zvl.data.samples import LANGUAGES
from zvl.model import backbones
from zvl.model.objectives import QFormerForPretraining
from zvl.training import described, reading, starts

pytestmark = pytest.mark.usefixtures("seed")
WIDTH = 48


@pytest.fixture(scope="module")
def tokenizer():
    return backbones.load_tokenizer()


@pytest.fixture
def ids(tokenizer, monkeypatch):
    scenes = moji.scenes(300, "train", int(torch.randint(1000, ())), **moji.RICH)
    monkeypatch.setattr(described, "scene_pool", lambda *_, **__: scenes)
    described._common_words.cache_clear()
    return reading.TextIds(tokenizer)


def small_model(vocabulary=3000, encoder=WIDTH, queries=16):
    config = InstructBlipQFormerConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        cross_attention_frequency=1, encoder_hidden_size=encoder, max_position_embeddings=80, initializer_range=0.1,
    )  # fmt: skip
    return QFormerForPretraining(config, queries, 16, decoder_start_id=4)


def test_a_described_patch_is_the_sum_of_what_is_said_there_and_of_its_place(ids):
    """By hand, patch by patch; what the whole batch shares is taken off all of them."""
    batch = described.described_batch(ids, 3, 8, 0)
    words = torch.randn(3000, WIDTH)
    found = described.described_patches(words, batch, noise=False)
    assert found.shape == (8, 65, WIDTH) and not found[:, 0].any()
    size = words.pow(2).mean().sqrt()
    expected = torch.zeros(8, 64, WIDTH)
    for i in range(8):
        for patch in range(64):
            for k in range(6):
                told = sum(words[t] for t in batch["words"][i, k].tolist() if t) + torch.zeros(WIDTH)
                told = told + size * batch["boxed"][i, k] * starts.box_code(batch["corners"][i, k], WIDTH)
                expected[i, patch] += batch["shares"][i, patch, k] * told
    place = described.PLACE * size * described.place_code(64, WIDTH)
    expected = expected - expected.mean((0, 1)) + place
    torch.testing.assert_close(found[:, 1:], expected, atol=1e-3, rtol=1e-3)


def test_the_words_of_a_description_are_those_of_the_phrases_that_tell_pieces_apart(ids):
    common = described._common_words(ids, 0)
    scenes = described.scene_pool()
    for language in LANGUAGES:
        texts = [set(ids(wordings.piece_phrase(p, language, rich=True))) for s in scenes for p in s.pieces]
        for token in set().union(*texts):
            often = np.mean([token in text for text in texts])
            assert often <= 0.6 or token in common, ids.tokenizer.decode([token])
    names = {token for c in moji.concepts() for token in ids(c.names["zh"]) if len(c.names["zh"]) > 1}
    assert not names & common


def test_batches_of_descriptions_are_half_english_and_their_swapped_captions_differ(ids):
    first, again = (described.described_batch(ids, 5, 8, 0) for _ in "ab")
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = described.described_batch(ids, 6, 8, 0)
    assert not torch.equal(first["words"], other["words"])
    for row in range(8):
        texts = [
            ids.tokenizer.decode(first[f"{kind}_ids"][row, 1:], skip_special_tokens=True)
            for kind in ("input", "swapped")
        ]
        assert texts[0] != texts[1]
        assert all(
            any("\u4e00" <= c <= "\u9fff" for c in text) == (row % 2 == 1)
            for text in texts
            if '"' not in text
        )
    torch.testing.assert_close(first["shares"].sum(-1), torch.ones(8, 64))


def test_a_few_steps_on_descriptions_teach_something_and_leave_no_trace_in_the_words(ids, tokenizer):
    model = small_model()
    config = LoopConfig(12, 2e-3, precision="fp32", log_every=4, optimizer="muon")
    history = described.train_described(model, tokenizer, config, batch_size=8)
    assert history[-1]["loss"] < history[0]["loss"] - 0.5
    assert {"itc", "itm", "itg", "swapped", "swapped_right", "kept"} <= set(history[0])
    assert history[-1]["kept"] > history[0]["kept"] and not hasattr(model, "keeper")
    batch = described.described_batch(ids, 0, 4, 0)
    weight = model.qformer.embeddings.word_embeddings.weight
    assert not described.described_patches(weight, batch).requires_grad


def test_what_is_kept_is_the_share_of_the_variance_that_is_found():
    said = torch.randn(200, 64, WIDTH)
    said = said - said.mean((0, 1))
    around = described.around_cells(said, 16)
    assert around.shape == (200, 16, WIDTH)
    nothing = torch.nn.Linear(WIDTH, WIDTH)
    nothing.requires_grad_(False).weight.zero_()
    nothing.bias.zero_()
    assert float(described.kept_loss(torch.nn.Identity(), around, around)) == 0
    assert float(described.kept_loss(nothing, around, around)) == pytest.approx(1, abs=0.02)
    far = said.clone()
    far[:, 32:] = 0  # the lower half of the picture
    torch.testing.assert_close(described.around_cells(far, 16)[:, :4], around[:, :4], atol=1e-3, rtol=1e-2)


def test_see_pictures_reads_a_vit_whose_patches_hold_what_is_said_as_the_descriptions_themselves():
    """A ViT that says everything, in a turned space: the Q-Former must behave as on the descriptions."""
    images, model = 40, small_model(vocabulary=60).eval()
    size = float(model.qformer.embeddings.word_embeddings.weight.detach().pow(2).mean().sqrt())
    said = 3 * size * torch.randn(images, 64, WIDTH)
    patches = described.patch_vectors(said - said.mean((0, 1)), size)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q
    features = torch.cat([torch.zeros(images, 1, WIDTH), 2 * patches @ turn + 0.3], 1)
    with torch.no_grad():
        wanted = model.qformer.keys_values(patches)
    explained = described.see_pictures(model, features, said, ridge=1e-7)
    assert explained > 0.999
    with torch.no_grad():
        found = model.qformer.keys_values(features[:, 1:])
    for (key, value), (their_key, their_value) in zip(found, wanted, strict=True):
        torch.testing.assert_close(key, their_key, atol=1e-2, rtol=1e-2)
        torch.testing.assert_close(value, their_value, atol=1e-2, rtol=1e-2)
