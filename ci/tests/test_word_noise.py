"""Which words are exchanged, and for which."""

import numpy as np
import pytest
import torch

from zvl.data import moji, wordings
from zvl.data.samples import LANGUAGES, Pair
from zvl.model import backbones
from zvl.model.tokenizers import caption_ids
from zvl.training.word_noise import OFTEN, Exchange


@pytest.fixture(scope="module")
def tokenizer():
    return backbones.load_tokenizer()


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng()
    return [
        Pair(f"{i}", f"{i}.png", wordings.caption(scene, language, "train", wording, rng), language, "x")
        for i, scene in enumerate(moji.scenes(400, "train", int(rng.integers(1000))))
        for language in LANGUAGES
        for wording in range(5)
    ]


def test_names_and_ends_stay_and_half_of_the_wording_goes(tokenizer, pairs):
    ids, _ = caption_ids(tokenizer, [pair.caption for pair in pairs])
    exchange = Exchange(tokenizer, pairs)
    noisy = exchange(ids, np.random.default_rng())
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    assert torch.equal(noisy[special], ids[special]), "[CLS], the end and the padding stay"
    common = exchange.common[ids]
    assert torch.equal(noisy[~common], ids[~common]), "what tells captions apart stays"
    went = (noisy != ids)[common].float().mean()
    assert float(went) == pytest.approx(OFTEN, abs=0.03)
    for language, word in (("en", " picture"), ("zh", "图")):
        (token,) = tokenizer(word, add_special_tokens=False)["input_ids"][-1:]
        assert exchange.common[token], f"{word} belongs to wordings of {language}"


def test_what_comes_in_is_never_a_name_in_any_spelling(tokenizer, pairs):
    exchange = Exchange(tokenizer, pairs)
    names = {name.lower() for concept in moji.concepts() for name in concept.names.values()}
    said = {tokenizer.decode([token]).strip().lower() for token in exchange.others.tolist()}
    shown = " ".join(pair.caption for pair in pairs).lower()
    assert not said & {name for name in names if name in shown and len(name) > 1}
    assert not set(exchange.others.tolist()) & set(tokenizer.all_special_ids)
    assert len(said) > 1000, "many words, so that none is learned by heart"


def test_noise_depends_on_the_generator_alone(tokenizer, pairs):
    ids, _ = caption_ids(tokenizer, [pair.caption for pair in pairs[:20]])
    exchange = Exchange(tokenizer, pairs)
    first, again, other = (exchange(ids, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
