"""The start of the projection: its output resembles the words that are said of what a query looks at."""

from types import SimpleNamespace

import pytest
import torch

from zvl.data.samples import Pair
from zvl.model import backbones
from zvl.training import starts


def test_patch_shares_count_pixels():
    for _ in range(20):
        x, y = torch.randint(0, 60, (2,)).tolist()
        width, height = torch.randint(1, 36, (2,)).tolist()
        picture = torch.zeros(96, 96)
        picture[y : y + height, x : x + width] = 1
        expected = picture.unfold(0, 12, 12).unfold(1, 12, 12).mean((2, 3)).flatten()
        torch.testing.assert_close(starts.patch_shares([(x, y, width, height)], 64, 96)[0], expected)


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
    embedding = torch.nn.Embedding(len(tokenizer), 24)

    def word(text):
        return embedding.weight[
            tokenizer(" " * text.isascii() + text, add_special_tokens=False)["input_ids"]
        ].sum(0)

    # Query 0 looks at the left half, query 1 at the right one, query 2 with half its attention at no patch.
    look = torch.zeros(3, 65)
    look[:2, 1:] = starts.patch_shares([left, right], 64, 96) / 32
    look[2, 0], look[2, 1:] = 0.5, 0.5 / 64
    there, beside = (torch.stack([word(t[n]) for n in k]) for t, k in ((names, pick), (grounds, ground)))
    beside = beside - beside.mean(0)
    truth = torch.stack([there, beside, (there + beside) / 4], 1).detach()
    basis, shift = torch.randn(24, 24), torch.randn(24)
    mixed = truth @ basis + shift  # what the queries hold: the truth, in another basis
    model = SimpleNamespace(
        language_model=SimpleNamespace(get_input_embeddings=lambda: embedding),
        language_projection=torch.nn.Linear(24, 24),
        config=SimpleNamespace(vision_config=SimpleNamespace(image_size=96)),
        qformer_model=SimpleNamespace(
            queries=lambda features: mixed[features[:, 0, 0].long()],
            cross_attention=lambda features: look.expand(len(features), 1, 1, 3, 65),
        ),
    )
    features = torch.arange(images).float()[:, None, None].expand(images, 65, 1)
    row = {f"{i}.png": i for i in range(images)}
    said = starts.said_of_patches(row, pairs, regions, tokenizer, embedding.weight, images, 64, 96)
    assert said.shape == (images, 64, 24)
    torch.testing.assert_close(said[5].view(8, 8, 24)[:, :4], there[5].expand(8, 4, 24))
    torch.testing.assert_close(said[5].view(8, 8, 24)[:, 4:], beside[5].expand(8, 4, 24))
    explained = starts.align_projection(model, features, said, strength=2.0)
    assert explained > 0.999
    with torch.no_grad():
        tokens = model.language_projection(mixed)
    wanted = truth - truth.mean((0, 1))
    assert torch.cosine_similarity(tokens, wanted, dim=-1).min() > 0.99
    assert tokens.pow(2).mean().sqrt() == pytest.approx(
        2 * embedding.weight.pow(2).mean().sqrt().item(), rel=0.01
    )
