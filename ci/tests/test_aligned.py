"""The aligned start: queries that look at a place and take in what is said there; a projection that resembles words."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import InstructBlipQFormerConfig

from zvl.data.samples import Pair
from zvl.model import backbones
from zvl.model.objectives import QFormerForPretraining
from zvl.training import aligned


def test_patch_shares_count_pixels():
    for _ in range(20):
        x, y = torch.randint(0, 60, (2,)).tolist()
        width, height = torch.randint(1, 36, (2,)).tolist()
        picture = torch.zeros(96, 96)
        picture[y : y + height, x : x + width] = 1
        expected = picture.unfold(0, 12, 12).unfold(1, 12, 12).mean((2, 3)).flatten()
        torch.testing.assert_close(aligned.patch_shares([(x, y, width, height)], 64, 96)[0], expected)


def test_the_projection_says_of_each_query_what_stands_where_it_looks():
    tokenizer = backbones.load_tokenizer()
    names = ["tiger", "panda", "老虎", "熊猫", "boat", "apple"]
    grounds = ["red", "green", "blue", "white", "grey", "purple"]
    images = 240
    pick = torch.randint(0, 6, (images,))
    ground = torch.randperm(images) % 6  # even: a word in more than a fifth of the captions would not count
    left, right = (0, 0, 48, 96), (48, 0, 48, 96)  # a thing in the left half, bare ground in the right one
    regions = [Pair(str(i), f"{i}.png", names[pick[i]], "en", "x", left) for i in range(images)]
    pairs = [Pair(str(i), f"{i}.png", grounds[ground[i]], "en", "x") for i in range(images)]
    embedding = torch.nn.Embedding(len(tokenizer), 32)

    def word(text):
        return embedding.weight[
            tokenizer(" " * text.isascii() + text, add_special_tokens=False)["input_ids"]
        ].sum(0)

    # Query 0 looks at the left half, query 1 at the right one, query 2 with half its attention at no patch.
    look = torch.zeros(3, 65)
    look[:2, 1:] = aligned.patch_shares([left, right], 64, 96) / 32
    look[2, 0], look[2, 1:] = 0.5, 0.5 / 64
    there, beside = (torch.stack([word(t[n]) for n in k]) for t, k in ((names, pick), (grounds, ground)))
    beside = beside - beside.mean(0)
    common = (
        torch.bincount(pick)[pick] / images
    )  # a name is the quieter the more phrases have it; the box is said too
    there = there * (common.log() / math.log(aligned.RARE))[:, None]
    there = there + embedding.weight.pow(2).mean().sqrt() * aligned.box_code(torch.tensor([0, 0, 0.5, 1]), 32)
    truth = torch.stack([there, beside, (there + beside) / 4], 1).detach()
    basis, shift = torch.randn(32, 32), torch.randn(32)
    mixed = truth @ basis + shift  # what the queries hold: the truth, in another basis
    model = SimpleNamespace(
        language_model=SimpleNamespace(get_input_embeddings=lambda: embedding),
        language_projection=torch.nn.Linear(32, 32),
        config=SimpleNamespace(vision_config=SimpleNamespace(image_size=96)),
        qformer_model=SimpleNamespace(
            queries=lambda features: mixed[features[:, 0, 0].long()],
            cross_attention=lambda features: look.expand(len(features), 1, 1, 3, 65),
        ),
    )
    features = torch.arange(images).float()[:, None, None].expand(images, 65, 1)
    row = {f"{i}.png": i for i in range(images)}
    told, _ = aligned.told_of_pictures(row, pairs, regions, tokenizer, embedding.weight, images, 96)
    said, counts = aligned.said_of_patches(told, 64, 96)
    assert said.shape == (images, 64, 32)
    torch.testing.assert_close(said[5].view(8, 8, 32)[:, :4], there[5].expand(8, 4, 32))
    torch.testing.assert_close(said[5].view(8, 8, 32)[:, 4:], beside[5].expand(8, 4, 32))
    wanted, counts = aligned.said_where_queries_look(model.qformer_model, features, said, counts)
    explained = aligned.align_projection(model, features, wanted, counts, strength=2.0)
    assert explained > 0.999
    with torch.no_grad():
        tokens = model.language_projection(mixed)
        aligned.align_projection(model, features, wanted, counts, strength=2.0, mark=embedding.weight[3])
        marked = model.language_projection(mixed)
    torch.testing.assert_close(marked, tokens + embedding.weight[3], msg="each token carries the mark")
    wanted = truth - truth.mean((0, 1))
    # The ridge bends the shortest of the 720 rows most.
    alike = torch.cosine_similarity(tokens, wanted, dim=-1)
    assert alike.mean() > 0.995 and alike.min() > 0.98, (alike.mean(), alike.min())
    assert tokens.pow(2).mean().sqrt() == pytest.approx(
        2 * embedding.weight.pow(2).mean().sqrt().item(), rel=0.01
    )


def test_rare_words_of_a_region_are_heard_above_common_ones_and_their_patches_count_more():
    """Each of ten things is said by a tenth of the phrases, but the fox by one alone; "left" by half of them."""
    tokenizer = backbones.load_tokenizer()
    names = "tiger panda owl fox bus kite bell rose crab deer".split() * 10
    names = [name if name != "fox" or i == 3 else "owl" for i, name in enumerate(names)]
    sides = ["left", "right"] * 50
    box = (0, 0, 96, 48)
    regions = [
        Pair(str(i), f"{i}.png", f"{name} {side}", "en", "x", box)
        for i, (name, side) in enumerate(zip(names, sides, strict=True))
    ]
    row = {f"{i}.png": i for i in range(100)}
    words = torch.nn.functional.one_hot(torch.arange(len(tokenizer)), len(tokenizer)).float()
    pictures, shares = aligned.told_of_pictures(row, (), regions, tokenizer, words, 100, 96)
    told, counts = aligned.said_of_patches(pictures, 64, 96)
    (fox,), (tiger,), (right,) = (
        tokenizer(word, add_special_tokens=False)["input_ids"][-1:] for word in (" fox", " tiger", " right")
    )
    code = words.pow(2).mean().sqrt() * aligned.box_code(torch.tensor([0.0, 0, 1, 0.5]), len(tokenizer))
    loud = told[3, 0] - code
    assert float((told[10, 0] - code)[tiger]) == pytest.approx(math.log(0.1) / math.log(0.01), rel=1e-3)
    assert float(loud[fox]) == pytest.approx(1, rel=1e-3), (
        "a word in a hundredth of the phrases is as loud as any"
    )
    assert float(loud[right]) == pytest.approx(math.log(0.5) / math.log(0.01), rel=1e-3)
    assert counts[3, 0] == pytest.approx(aligned.COUNTS / 0.01) and counts[0, 0] == 1, (
        "rare things count more"
    )
    assert (counts[:, 32:] == 1).all(), "bare ground counts once"
    assert shares[fox] == 0.01 and {fox} < pictures[3].words[0] and pictures[3].boxes == (box,)


def test_a_row_that_counts_twice_is_a_row_that_is_there_twice():
    inputs, targets = torch.randn(30, 5), torch.randn(30, 3)
    counts = torch.randint(1, 4, (30,))
    weight, _ = aligned.ridge_regression(inputs, targets, counts.float(), ridge=0)
    again, _ = aligned.ridge_regression(
        inputs.repeat_interleave(counts, 0), targets.repeat_interleave(counts, 0), ridge=0
    )
    torch.testing.assert_close(weight, again, atol=1e-4, rtol=1e-3)


def test_aligned_queries_look_at_their_own_cell_and_take_in_what_is_said_there():
    """A ViT whose patches hold their place and a few of sixty things, mixed and with a little noise."""
    queries, images, width = 16, 200, 48
    config = InstructBlipQFormerConfig(
        vocab_size=60, hidden_size=width, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        cross_attention_frequency=1, encoder_hidden_size=96, max_position_embeddings=20, initializer_range=0.1,
    )  # fmt: skip
    model = QFormerForPretraining(config, queries, 8, decoder_start_id=30).eval()
    words = model.qformer.embeddings.word_embeddings.weight.detach()
    things = torch.randint(60, (images, 64))
    said = words[things]
    places = aligned.box_code(aligned.grid_centres(64).repeat(1, 2), 32)
    hidden = torch.cat([said, places.expand(images, -1, -1)], -1) @ torch.randn(80, 96)
    features = torch.cat([torch.randn(images, 1, 96), hidden + 0.01 * torch.randn(images, 64, 96)], 1)
    explained = aligned.align_cross_attention(model, features, said, torch.ones(images, 64), reach=0.08)
    assert min(explained) > 0.95
    with torch.no_grad():
        maps = model.cross_attention(features[:50])[..., 1:]  # without the class vector
    grid = maps[:, 0].mean((0, 1)).view(16, 8, 8)
    for query, centre in enumerate(aligned.grid_centres(16)):
        looked = torch.stack([grid[query].sum(0), grid[query].sum(1)]) / grid[query].sum()
        line = (torch.arange(8) + 0.5) / 8
        assert ((looked * line).sum(1) - centre).abs().max() < 0.1, "on average it looks at its cell's centre"
        row, column = query // 4, query % 4
        cell = grid[query, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].sum() / grid[query].sum()
        assert cell > 0.4, "a cell is a sixteenth of the picture"
    with torch.no_grad():
        taken = model.queries(features)
    looks = model.cross_attention(features).mean((1, 2))[..., 1:]
    target = (looks @ said).flatten(0, 1)
    taken = taken.flatten(0, 1)
    _, predicted = aligned.ridge_regression(taken - taken.mean(0), target - target.mean(0))
    assert (
        1 - (predicted - target + target.mean(0)).pow(2).sum() / (target - target.mean(0)).pow(2).sum() > 0.5
    )
    five = QFormerForPretraining(config, 5, 8, decoder_start_id=30)
    with pytest.raises(ValueError, match="5 queries make no square grid"):
        aligned.align_cross_attention(five, features, said, torch.ones(images, 64))


def test_a_box_reaches_fully_into_the_cell_that_has_most_of_it():
    half, corner = (0, 0, 48, 96), (60, 60, 24, 24)  # cells are 24 pixels wide
    reach = aligned.reach_by_place([half, corner], 16, 96).view(2, 4, 4)
    assert torch.equal(reach[0], torch.tensor([1.0, 1, 0, 0]).expand(4, 4))
    torch.testing.assert_close(reach[1, 2:, 2:], torch.ones(2, 2))
    assert float(reach[1].sum()) == 4, "it covers a quarter of each of four cells"
    torch.testing.assert_close(
        aligned.reach_by_place([(0, 0, 30, 24)], 16, 96)[0, :3], torch.tensor([1, 0.25, 0])
    )
    for nowhere in ((10, 10, 0, 20), (96, 0, 20, 20), (-30, 5, 20, 20)):
        with pytest.raises(ValueError, match="covers nothing of a picture of 96 pixels"):
            aligned.reach_by_place([half, nowhere], 16, 96)
