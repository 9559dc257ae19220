"""Retrieval and matching figures against cases worked by hand."""

import pytest
import torch

from zvl.evaluation.retrieval import (
    disjoint_pools,
    itm_balanced_accuracy,
    itm_hits,
    ranks,
    recall_at_one,
    retrieval_at_100,
    similarities,
)


def test_ranks_worked_by_hand():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.7, 0.6, 0.3]])
    assert ranks(similarity).tolist() == [1, 2, 3]
    assert recall_at_one(similarity) == pytest.approx(1 / 3)
    assert ranks(similarity.T).tolist() == [1, 2, 1]


def test_ties_rank_last():
    assert ranks(torch.tensor([[0.5, 0.5, 0.1], [0.2, 0.7, 0.1], [0.0, 0.0, 0.0]])).tolist() == [2, 1, 3]
    assert recall_at_one(torch.ones(100, 100)) == 0.0, "a model with one score for all knows nothing"


def test_the_best_query_counts():
    images = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.6, 0.8]]])  # (2 images, 2 queries, 2)
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    expected = torch.tensor([[1.0, 1.0, 0.0], [0.6, 0.8, 1.0]])
    torch.testing.assert_close(similarities(images, texts), expected)


def test_half_precision_features_do_not_tie_by_rounding():
    # 1 x 0.0042 and 1 x 0.0042 + 1 x 2^-18: bf16 would round the second sum to the first
    image = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.bfloat16)
    text = torch.tensor([[0.0042, 2**-18], [0.0042, 0.0]], dtype=torch.bfloat16)
    assert ranks(similarities(image, text)).tolist()[0] == 1


def features_of(matches: list[int], width: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(matches), width).float()


def test_text_and_image_retrieval_worked_by_hand():
    # Pool 1: caption 1 looks like image 0 and 1 alike; pool 2 is perfect.
    images = torch.eye(4)
    texts = torch.tensor([[1.0, 0, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
    found = retrieval_at_100(images, texts, [[0, 1], [2, 3]])
    assert found.tr1_hits.tolist() == [[True, True], [True, True]]
    assert found.ir1_hits.tolist() == [[True, False], [True, True]]
    assert (found.tr1, found.ir1) == (1.0, 0.75)


def test_only_scenes_of_the_same_pool_compete():
    images, texts = features_of([0, 1, 0, 1], 2), features_of([0, 1, 0, 1], 2)
    assert retrieval_at_100(images, texts, [[0, 1], [2, 3]]).tr1 == 1.0
    assert retrieval_at_100(images, texts, [[0, 1, 2, 3]]).tr1 == 0.0, "each has a double: all tie"


def test_chance_is_one_in_a_hundred():
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(1000, 16, generator=generator), torch.randn(1000, 16, generator=generator)
    pools = disjoint_pools([str(i) for i in range(1000)])
    assert retrieval_at_100(images, texts, pools).tr1 == pytest.approx(0.01, abs=0.01)


def test_pools_are_disjoint_and_hold_no_caption_twice():
    captions = [
        f"Scene {i // 2}" if i % 2 else f"scene  {i // 2}" for i in range(1100)
    ]  # doubles but for form
    pools = disjoint_pools(captions, seed=1)
    flat = [i for pool in pools for i in pool]
    assert [len(pool) for pool in pools] == [100] * 10
    assert len(set(flat)) == 1000
    assert all(len({i // 2 for i in pool}) == 100 for pool in pools)
    assert pools == disjoint_pools(captions, seed=1) != disjoint_pools(captions, seed=2)


def test_pools_keep_captions_distinct_in_both_languages():
    captions = [("a dog", "一只狗"), ("one dog", "一只狗"), ("a cat", "一只猫"), ("a cat", "一只小猫")]
    for pool in disjoint_pools(captions, size=2, count=2):
        assert len({captions[i][0] for i in pool}) == len({captions[i][1] for i in pool}) == 2


def test_too_few_distinct_captions_are_refused():
    with pytest.raises(ValueError, match=r"asked: 2 of 2"):
        disjoint_pools(["a", "a", "a", "b"], size=2, count=2)


def test_itm_balanced_accuracy_worked_by_hand():
    # 3 of 4 right captions accepted, 1 of 2 swapped ones refused: (0.75 + 0.5) / 2, not 4 / 6
    assert itm_balanced_accuracy(torch.tensor([1.0, 2, 3, -1]), torch.tensor([-1.0, 1])) == pytest.approx(
        0.625
    )


def test_a_head_that_always_agrees_scores_half_and_one_without_verdict_zero():
    assert itm_balanced_accuracy(torch.ones(9), torch.ones(3)) == 0.5
    assert itm_balanced_accuracy(torch.zeros(9), torch.zeros(3)) == 0.0
    assert itm_hits(torch.tensor([1.0]), torch.tensor([0.0])) == ([1.0, 0.0], ["matching", "swapped"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranks(torch.zeros(2, 3)), r"\(2, 3\); a square matrix"),
        (lambda: ranks(torch.full((2, 2), float("nan"))), "NaN"),
        (lambda: retrieval_at_100(torch.eye(2), torch.eye(3), [[0]]), "2 images but 3 texts"),
        (lambda: retrieval_at_100(torch.eye(3), torch.eye(3), [[0, 1], [1, 2]]), "overlap"),
        (lambda: retrieval_at_100(torch.eye(3), torch.eye(3), [[0, 1], [2]]), "equal sizes"),
        (lambda: retrieval_at_100(torch.eye(3), torch.eye(3), [[0, 3]]), r"features have 0\.\.2"),
        (lambda: itm_balanced_accuracy(torch.ones(0), torch.ones(1)), "matching has shape"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
