"""Duplicates: found three ways, one of each group stays whatever the order, no chains, nothing of an evaluation set."""

import io
import itertools
import random

import numpy as np
import pytest
from PIL import Image

from zvl.data import moji
from zvl.data.duplicates import (
    DISTANCE,
    Pictures,
    contaminated,
    find,
    mark_duplicates,
    near_embeddings,
    near_hashes,
    perceptual_hash,
    pictures_of,
    same,
    survivors,
)

SEED = random.randrange(2**31)


def scenes(count, seed=SEED):
    return [moji.render(scene) for scene in moji.scenes(count, "train", seed)]


def copied(picture, rng):
    """Smaller, brighter or darker, as JPEG."""
    side = int(rng.integers(68, 92))
    by = rng.uniform(0.92, 1.08)
    small = picture.resize((side, side)).point([min(int(value * by), 255) for value in range(256)] * 3)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=int(rng.integers(60, 90)))
    return Image.open(file)


def apart(a, b):
    return (int(a, 16) ^ int(b, 16)).bit_count()


def rows_of(names, **columns):
    """A batch of rows with a picture each, all different but for what is given."""
    count = len(names)
    rng = np.random.default_rng([SEED, 3])
    batch = {
        "image_id": list(names), "image": [f"/pictures/{name}.png" for name in names], "source": ["a"] * count,
        "language": ["en"] * count, "caption": [f"caption {name}" for name in names], "box": [None] * count,
        "width": [96] * count, "height": [96] * count, "sha256": [f"sha {name}" for name in names],
        "phash": [rng.bytes(32).hex() for _ in names], "faults": [[] for _ in names], "reasons": [[] for _ in names],
    }  # fmt: skip
    return batch | columns


# --- hashes ---


def test_the_perceptual_hash_is_imagehash_s():
    # Frozen from imagehash 4.3.2, phash(image, hash_size=16), of this picture.
    y, x = np.mgrid[:120, :160]
    picture = Image.fromarray(((np.sin(x / 9) * np.cos(y / 7) + x / 160 + 1) * 80).astype(np.uint8))
    assert perceptual_hash(picture) == "83eafc0003fffc0003fffc00fc0003fffc0003fffc0003fffc0203fffc0203ff"


def test_copies_are_near_and_other_scenes_are_far():
    rng, pictures = np.random.default_rng(SEED), scenes(60)
    hashes = [perceptual_hash(picture) for picture in pictures]
    copies = [perceptual_hash(copied(picture, rng)) for picture in pictures]
    near = [apart(a, b) for a, b in zip(hashes, copies, strict=True)]
    far = [apart(a, b) for a, b in itertools.combinations(hashes, 2)]
    assert np.mean(np.array(near) <= DISTANCE) > 0.95 and min(far) > DISTANCE, (max(near), min(far))


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_near_hashes_are_those_that_a_plain_loop_finds(block):
    rng = random.Random(SEED)
    base = [rng.getrandbits(256) for _ in range(12)]
    values = [
        rng.choice(base) ^ sum(1 << rng.randrange(256) for _ in range(rng.randrange(9))) for _ in range(60)
    ]
    hashes = [f"{value % 2**256:064x}" for value in values]
    for gap in (5, 6, 31):
        hashes[gap] = None
    expected = {
        (i, j) for i, j in itertools.combinations(range(60), 2)
        if hashes[i] and hashes[j] and apart(hashes[i], hashes[j]) <= 8
    }  # fmt: skip
    assert expected and set(map(tuple, near_hashes(hashes, distance=8, block=block).tolist())) == expected
    crossing = near_hashes(hashes[:25], hashes[25:], distance=8, block=block).tolist()
    assert {(i, j + 25) for i, j in crossing} == {(i, j) for i, j in expected if i < 25 <= j}


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_near_embeddings_are_those_that_a_plain_loop_finds(block):
    rng = np.random.default_rng(SEED)
    vectors = rng.normal(size=(6, 16))[rng.integers(0, 6, 40)] + 0.15 * rng.normal(size=(40, 16))
    vectors *= rng.uniform(0.1, 9, (40, 1))
    vectors[3], vectors[4, 2] = 0, np.nan
    good = [i for i in range(40) if i not in (3, 4)]

    def cosine(i, j):
        return vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])

    expected = {(i, j) for i, j in itertools.combinations(good, 2) if cosine(i, j) >= 0.97}
    assert (
        expected and set(map(tuple, near_embeddings(vectors, cosine=0.97, block=block).tolist())) == expected
    )
    crossing = near_embeddings(vectors[:15], vectors[15:], cosine=0.97, block=block).tolist()
    assert {(i, j + 15) for i, j in crossing} == {(i, j) for i, j in expected if i < 15 <= j}


def test_equal_keys_pair_with_their_first():
    assert same(["a", None, "b", "a", None, "a"]).tolist() == [[0, 3], [0, 5]]
    assert same(["a", "b", "a", None], ["b", None, "a", "c"]).tolist() == [[1, 0], [0, 2]]
    assert same([]).shape == near_hashes([]).shape == near_embeddings(np.empty((0, 4))).shape == (0, 2)


# --- who stays ---


def test_each_that_goes_has_one_that_stays_and_no_two_that_stay_are_the_same():
    rng = np.random.default_rng()
    for _ in range(200):
        count = int(rng.integers(1, 15))
        pairs = rng.integers(0, count, (int(rng.integers(0, 20)), 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        stays = survivors(count, pairs)
        linked = {frozenset(pair) for pair in pairs.tolist()}
        for row, first in enumerate(stays.tolist()):
            assert first == row or (
                first < row and stays[first] == first and frozenset((row, first)) in linked
            )
        assert not any(stays[a] == a and stays[b] == b for a, b in pairs.tolist())


def test_there_is_no_chain():
    assert survivors(3, np.array([[0, 1], [1, 2]])).tolist() == [0, 0, 2]


def test_the_larger_picture_stays_whatever_the_order_of_rows():
    rng = np.random.default_rng(SEED)
    names = [f"{number:02d}" for number in range(12)]
    batch = rows_of(names, width=[96] * 4 + [200] + [96] * 7)
    batch["sha256"][1] = batch["sha256"][7] = batch["sha256"][0]
    batch["phash"][4] = f"{int(batch['phash'][2], 16) ^ 0b1011:064x}"
    expected = {"01": "same_file", "07": "same_file", "02": "near_picture"}
    for _ in range(5):
        order = rng.permutation(12)
        mixed = {name: [column[i] for i in order] for name, column in batch.items()}
        mixed["image"] = [f"/elsewhere{rng.integers(9)}/{name}.png" for name in mixed["image_id"]]
        marked = mark_duplicates(mixed)
        assert {n: f[0] for n, f in zip(marked["image_id"], marked["faults"], strict=True) if f} == expected
    assert marked["reasons"][marked["image_id"].index("02")] == ["as 04.png"]


def test_a_row_that_was_dropped_before_keeps_no_other_from_staying():
    batch = rows_of(["a", "b"], sha256=["one", "one"], faults=[["emoji"], []], reasons=[["U+1F436"], []])
    assert mark_duplicates(batch)["faults"] == [["emoji"], []]


def test_a_picture_with_several_captions_is_no_duplicate_but_a_pair_given_twice_is():
    batch = rows_of(["a"] * 4, caption=["One", "two", "one", "one"], box=[None, None, None, (1, 2, 3, 4)])
    assert mark_duplicates(batch)["faults"] == [[], [], ["same_pair"], []]


def test_a_picture_does_not_replace_one_with_captions_in_the_other_language():
    batch = rows_of(["a", "b", "c"], sha256=["one"] * 3, language=["en", "zh", "zh"])
    assert mark_duplicates(batch)["faults"] == [[], [], ["same_file"]]


def test_embeddings_are_used_where_every_picture_has_one():
    vectors = [[1.0, 0.0], [0.999, 0.02], [0.0, 1.0]]
    batch = rows_of(["a", "b", "c"])
    assert mark_duplicates(batch | {"embedding": vectors})["faults"] == [[], ["near_embedding"], []]
    assert mark_duplicates(batch | {"embedding": vectors}, cosine=None)["faults"] == [[], [], []]
    assert mark_duplicates(batch | {"embedding": [*vectors[:2], None]})["faults"] == [[], [], []]


def test_the_batch_is_left_as_it_was():
    batch = rows_of(["a", "b"], sha256=["one", "one"])
    mark_duplicates(batch)
    assert batch["faults"] == [[], []] == batch["reasons"]


# --- evaluation pictures ---


def test_evaluation_pictures_are_found_three_ways_and_none_else():
    rng = np.random.default_rng(SEED)
    train, test = scenes(30), scenes(20, SEED + 1)
    vectors = rng.normal(size=(50, 32)).astype(np.float32)

    def told(name, picture, vector):
        return name, f"sha {name}", perceptual_hash(picture), vector

    entries = [told(f"t{i}", picture, vectors[i]) for i, picture in enumerate(train)]
    evaluation = [told(f"e{i}", picture, vectors[30 + i]) for i, picture in enumerate(test)]
    entries[3] = ("t3", "sha e5", entries[3][2], vectors[3])
    entries[4] = told("t4", copied(test[6], np.random.default_rng(1)), vectors[4])
    entries[5] = (*entries[5][:3], vectors[37] * 2 + 0.01)

    def pictures(some):
        names, digests, hashes, embedded = zip(*some, strict=True)
        return Pictures(names, digests, hashes, np.array(embedded))

    expected = {"t3": ("same_file", "e5"), "t4": ("near_picture", "e6"), "t5": ("near_embedding", "e7")}
    assert contaminated(pictures(entries), pictures(evaluation)) == expected
    assert contaminated(pictures(entries[6:]), pictures(evaluation)) == {}
    assert find(pictures(entries)) == {}


def test_decontamination_comes_before_duplicates():
    batch = rows_of(["a", "b", "c"], sha256=["one", "one", "two"])
    evaluation = pictures_of(rows_of(["test"], sha256=["one"], phash=[None]))
    marked = mark_duplicates(batch, evaluation)
    assert marked["faults"] == [["evaluation: same_file"], ["evaluation: same_file"], []]
    assert marked["reasons"][0] == ["as test.png"]
