"""Scenes: drawn from exact boxes, a function of the seed, some pairs of things kept for the test split."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zvl.data import drawing, moji

COUNT = 60
few = settings(max_examples=12, deadline=None)


@pytest.fixture(scope="module")
def scenes():
    return {split: moji.scenes(COUNT, split, seed=7) for split in ("train", "test")}


def empty(scene):
    return np.asarray(moji.render(moji.Scene(scene.id, scene.background, scene.texture, ())), int)


def test_there_are_150_to_200_concepts_with_names_of_their_own_in_both_languages():
    table = moji.concepts()
    assert 150 <= len(table) <= 200
    assert [concept.id for concept in table] == list(range(len(table)))
    for language in ("en", "zh"):
        names = [concept.names[language] for concept in table]
        assert len(set(names)) == len(names) and all(names)
    assert all(any("\u4e00" <= char <= "\u9fff" for char in concept.names["zh"]) for concept in table)
    assert all(concept.names["en"].replace("’", "").isascii() for concept in table)


def test_every_group_has_a_name_in_both_languages():
    for language in ("en", "zh"):
        assert moji.GROUP_NAMES[language].keys() == moji.GROUPS.keys()
    assert {concept.group for concept in moji.concepts()} == set(moji.GROUPS)


@given(seed=st.integers(0, 2**32))
@few
def test_a_seed_gives_the_same_scenes_and_pictures_again(seed):
    first, second = (moji.scenes(2, "train", seed) for _ in range(2))
    assert first == second
    assert all(
        moji.render(a).tobytes() == moji.render(b).tobytes() for a, b in zip(first, second, strict=True)
    )
    assert [s.pieces for s in moji.scenes(2, "train", seed + 1)] != [s.pieces for s in first]


def test_more_scenes_begin_with_the_same_ones():
    assert moji.scenes(5, "test", seed=3) == moji.scenes(9, "test", seed=3)[:5]


@pytest.mark.parametrize("split", ["train", "test"])
def test_boxes_hold_all_that_is_drawn_and_nothing_else(split):
    for scene in moji.scenes(30, split, seed=7, framed=0):  # frames lie around boxes
        changed = np.abs(np.asarray(moji.render(scene), int) - empty(scene)).sum(2) > 0
        inside = np.zeros_like(changed)
        for piece in scene.pieces:
            box = np.s_[piece.y : piece.y + piece.side, piece.x : piece.x + piece.side]
            assert not inside[box].any(), f"{scene.id}: boxes overlap"
            inside[box] = True
            rows, columns = np.nonzero(changed[box])
            longer = max(np.ptp(rows), np.ptp(columns)) + 1
            assert longer >= piece.side - 3, f"{scene.id}: the box of {piece} is loose"
        assert not changed[~inside].any(), f"{scene.id}: something is drawn outside all boxes"


def test_scenes_hold_one_to_five_distinct_things_within_the_picture(scenes):
    for scene in scenes["train"] + scenes["test"]:
        assert 1 <= len(scene.pieces) <= moji.MAX_PIECES
        assert len({piece.concept for piece in scene.pieces}) == len(scene.pieces)
        for piece in scene.pieces:
            assert (
                0 <= piece.x <= moji.SCENE_SIZE - piece.side and 0 <= piece.y <= moji.SCENE_SIZE - piece.side
            )
            low, high = moji.SIZES[piece.size]
            assert low <= piece.side <= high
    assert {len(scene.pieces) for scene in scenes["train"]} == {1, 2, 3, 4, 5}
    assert {scene.background for scene in scenes["train"]} == set(moji.BACKGROUNDS)
    assert {piece.art for scene in scenes["train"] for piece in scene.pieces} == set(moji.ART_SETS)


def test_numbers_of_things_are_uniform_although_five_do_not_always_fit():
    counts = np.bincount([len(scene.pieces) for scene in moji.scenes(1000, "train", seed=1)])[1:]
    assert (np.abs(counts - 200) < 4 * np.sqrt(200 * 0.8)).all(), counts


def test_no_pair_of_a_test_scene_meets_in_a_training_scene(scenes):
    pairs = {
        split: {frozenset(pair) for s in of for pair in combinations([p.concept for p in s.pieces], 2)}
        for split, of in scenes.items()
    }
    assert pairs["train"] and pairs["test"]
    assert not pairs["train"] & pairs["test"]
    assert all(moji.held_out(*pair) for pair in pairs["test"])
    assert not any(moji.held_out(*pair) for pair in pairs["train"])


@given(
    first=st.integers(0, 176),
    second=st.integers(0, 176),
    seed=st.integers(0, 1000),
    split=st.sampled_from(["train", "test"]),
)
@few
def test_held_out_pairs_are_the_same_for_every_seed_and_order(first, second, seed, split):
    assert moji.held_out(first, second) == moji.held_out(second, first)
    for scene in moji.scenes(2, split, seed, min_pieces=2):
        ids = [piece.concept for piece in scene.pieces]
        assert {moji.held_out(*pair) for pair in combinations(ids, 2)} == {split == "test"}


def test_a_third_of_all_pairs_is_held_out_and_every_concept_is_in_both_splits():
    size = len(moji.concepts())
    table = np.array([[i != j and moji.held_out(i, j) for j in range(size)] for i in range(size)])
    assert 0.33 < table.sum() / (size * (size - 1)) < 0.37
    assert (table.sum(1) > 20).all() and (size - 1 - table.sum(1) > 60).all()


def test_one_art_set_can_be_chosen():
    drawn = moji.scenes(8, "train", seed=0, art_sets=("twemoji",))
    assert {piece.art for scene in drawn for piece in scene.pieces} == {"twemoji"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, r"'dev' is not one of train, test, concept"),
        ({"split": "train", "min_pieces": 0}, "0 to 5 do not lie within 1 to 5"),
        ({"split": "train", "max_pieces": 6}, "1 to 6 do not lie within 1 to 5"),
        ({"split": "train", "min_pieces": 3, "max_pieces": 2}, "3 to 2"),
    ],
)
def test_a_wrong_split_or_number_of_pieces_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        moji.scenes(1, seed=0, **arguments)


def test_the_attribution_names_artists_and_licences():
    line = moji.attribution()
    assert all(
        word in line
        for word in ("OpenMoji", "CC BY-SA 4.0", "Twemoji", "CC BY 4.0", "Noto", "OFL", "Unicode CLDR")
    )


@pytest.fixture(scope="module")
def drawn():
    return {split: moji.scenes(200, split, 3, 2) for split in ("train", "test")}


def test_frames_and_signs_come_as_often_as_asked_for(drawn):
    pieces = [piece for scene in drawn["train"] for piece in scene.pieces]
    framed = np.mean([piece.frame is not None for piece in pieces])
    signs = np.mean([any(piece.word for piece in scene.pieces) for scene in drawn["train"]])
    assert abs(framed - 0.4) < 0.08 and abs(signs - 0.5) < 0.12
    assert {piece.word for piece in pieces} - {None} <= set(moji.SIGN_WORDS)
    assert all(sum(piece.word is not None for piece in scene.pieces) <= 1 for scene in drawn["train"])


def test_frames_lie_around_their_boxes_and_touch_nothing_else(drawn):
    for scene in drawn["train"][:40]:
        changed = np.abs(np.asarray(moji.render(scene), int) - empty(scene)).sum(2) > 0
        own = np.zeros(changed.shape, int)
        for piece in scene.pieces:
            reach = drawing.FRAME_WIDTH if piece.frame else 0
            x, y, side = piece.x - reach, piece.y - reach, piece.side + 2 * reach
            assert x >= 0 and y >= 0 and x + side <= moji.SCENE_SIZE and y + side <= moji.SCENE_SIZE
            own[y : y + side, x : x + side] += 1
            if piece.frame:
                assert changed[y, x : x + side].all() and changed[y : y + side, x].all()
        assert own.max() == 1 and not changed[own == 0].any()


def test_concepts_of_the_concept_split_are_pictured_there_alone(drawn):
    unseen = set(moji.unseen_concepts())
    assert len(unseen) == 2 * len(moji.GROUPS)
    shown = {piece.concept for scenes in drawn.values() for scene in scenes for piece in scene.pieces}
    assert not shown & unseen and len(shown) > 150
    for scene in moji.scenes(60, "concept", 3, 2):
        assert len({piece.concept for piece in scene.pieces} & unseen) == 1


def test_no_word_stands_beside_a_thing_in_both_splits(drawn):
    pairs = {
        split: {
            frozenset(pair)
            for scene in scenes
            for pair in combinations([piece.concept for piece in scene.pieces], 2)
        }
        for split, scenes in drawn.items()
    }
    assert sum(max(pair) >= moji.SIGN_ID for pair in pairs["test"]) > 50
    assert not pairs["train"] & pairs["test"]


def test_another_style_changes_the_art_and_nothing_else(drawn):
    for scene in drawn["test"][:20]:
        other = moji.in_style(scene, "noto")
        assert {piece.art for piece in other.pieces} == {"noto"}
        assert [piece.box for piece in other.pieces] == [piece.box for piece in scene.pieces]
        assert moji.render(other).tobytes() != moji.render(scene).tobytes()


@pytest.mark.slow
def test_all_of_moji_can_be_drawn_by_parameter():
    table = moji.concepts(everything=True)
    assert len(table) > 1000 and table[: len(moji.concepts())] == moji.concepts()
    scene = next(
        s
        for s in moji.scenes(9, "train", 0, 3, everything=True, framed=0, signs=0)
        if s.pieces[0].concept > 200
    )
    assert scene.pieces[0].thing == table[scene.pieces[0].concept]
    assert moji.render(scene).size == (96, 96)
