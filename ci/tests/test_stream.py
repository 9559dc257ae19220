"""The stream: order is arithmetic, shares are met, workers and ranks change nothing, what is broken is replaced."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zvl.data.mixture import Mixture, permuted
from zvl.data.pixels import read_image, to_pixels
from zvl.data.rows import DataError, Quarantine
from zvl.data.samples import Pair
from zvl.data.shards import write_shards
from zvl.data.stream import batches, image_number, prefetched, stride
from zvl.data.tars import Shards
from zvl.model import backbones
from zvl.model.tokenizers import caption_ids

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores


@pytest.fixture(scope="module")
def seed() -> int:
    value = random.randrange(1 << 30)
    print(f"seed {value}")
    return value


class Counted:
    """Stands for shards of any size where only numbers are looked at."""

    def __init__(self, **pairs: int):
        self.pairs = lambda language: pairs.get(language, 0)


def made(folder, name, pictures, english, chinese, pairs_per_shard=7):
    """Shards of so many pictures with so many captions a language each."""
    (folder / name).mkdir()
    found = []
    for number in range(pictures):
        path = folder / name / f"{number}.png"
        Image.fromarray(np.random.default_rng().integers(0, 256, (24, 32, 3), np.uint8)).save(path)
        said = [("en", f"{name} {number} {n}") for n in range(english)]
        said += [("zh", f"{name} 第{number}张 {n}") for n in range(chinese)]
        found += [Pair(str(number), str(path), caption, language, name) for language, caption in said]
    write_shards(found, folder / f"{name}_shards", {}, pairs_per_shard=pairs_per_shard)
    return found, Shards(folder / f"{name}_shards")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    return {"coco": made(folder, "coco", 10, 2, 1), "wukong": made(folder, "wukong", 15, 0, 1)}


@pytest.fixture
def mixture(sets, seed):
    return Mixture(
        {"coco": (sets["coco"][1], 1.0), "wukong": (sets["wukong"][1], 3.0)}, {"en": 1, "zh": 1}, seed
    )


def encode(captions):
    rows = [list(caption.encode())[:40] for caption in captions]
    ids = torch.tensor([row + [0] * (40 - len(row)) for row in rows])
    return ids, ids != 0


def said(batch):
    return [bytes(row[row != 0].tolist()).decode("utf8", "ignore") for row in batch["input_ids"]]


def equal(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) if torch.is_tensor(value) else value == second[name]
        for name, value in first.items()
    )


# --- order and shares ---


@given(n=st.integers(1, 3000), key=st.text())
@settings(max_examples=30, deadline=None)
def test_a_permutation_takes_every_number_to_another(n, key):
    assert np.array_equal(np.sort(permuted(np.arange(n), n, key)), np.arange(n))


def test_permutations_are_spread_evenly_and_differ_by_key(seed):
    n, keys = 11, 11 * 100
    table = np.array([permuted(np.arange(n), n, f"{seed} {key}") for key in range(keys)])
    counts = np.array([np.bincount(column, minlength=n) for column in table.T])
    # Pearson's statistic over n x n cells has (n - 1) ** 2 degrees of freedom: 100, spread 14.
    assert (((counts - 100) ** 2) / 100).sum() < 100 + 6 * 14
    follows = (np.diff(table, axis=1) % n == 1).mean()
    assert follows < 2 / n, "neighbours stay neighbours"


def test_thirty_million_rows_need_no_memory_and_no_walk():
    first = permuted(np.arange(1000) + 29_000_000, 30_000_000, "x")
    assert len(np.unique(first)) == 1000 and 0 <= first.min() and first.max() < 30_000_000
    far = Mixture({"a": (Counted(en=30_000_000), 1)}).indices(89_999, 15, 128, 16)
    assert len(set(far)) == 128


def test_each_pair_comes_once_an_epoch(mixture):
    seen = Counter(mixture.rows(0, 6000))
    for cell in mixture.cells:
        counts = [seen[cell.name, cell.language, pair] for pair in range(cell.pairs)]
        assert max(counts) - min(counts) <= 1, "with replacement"
        assert min(counts) > 10, "the test must cover epochs"
    epochs = mixture.epochs(6000)
    assert {key: sum(n for row, n in seen.items() if row[:2] == key) for key in epochs} == {
        key: round(value * mixture.sets[key[0]][0].pairs(key[1])) for key, value in epochs.items()
    }


def test_epochs_differ_in_order(mixture):
    cell = mixture.cells[0]
    own = [
        pair
        for name, language, pair in mixture.rows(0, 4000)
        if (name, language) == (cell.name, cell.language)
    ]
    assert own[: cell.pairs] != own[cell.pairs : 2 * cell.pairs]


@given(
    counts=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)).filter(any), min_size=1, max_size=6),
    weights=st.lists(st.floats(0.01, 100), min_size=6, max_size=6),
    languages=st.sampled_from([None, {"en": 1, "zh": 1}, {"en": 3.5, "zh": 1}]),
    rows=st.integers(0, 400),
    seed=st.integers(0, 1 << 40),
)
@settings(max_examples=25, deadline=None)
def test_shares_are_met_to_a_few_rows_at_any_time(counts, weights, languages, rows, seed):
    sets = {
        str(n): (Counted(en=en, zh=zh), w)
        for n, ((en, zh), w) in enumerate(zip(counts, weights, strict=False))
    }
    for language in languages or ():
        if not any(part.pairs(language) for part, _ in sets.values()):
            return
    mixture = Mixture(sets, languages, seed)
    assert sum(cell.share for cell in mixture.cells) == pytest.approx(1)
    found = Counter((name, language) for name, language, _ in mixture.rows(0, rows))
    for cell in mixture.cells:
        assert abs(found[cell.name, cell.language] - rows * cell.share) <= len(mixture.cells)
    start = rows // 3
    assert mixture.rows(0, rows)[start:] == mixture.rows(start, rows - start), (
        "the order depends on where one begins"
    )


def test_shares_are_exact_in_expectation_over_seeds():
    sets = {"a": (Counted(en=40, zh=9), 1.0), "b": (Counted(zh=30), 2.0), "c": (Counted(en=5), 0.3)}
    rows, seeds = 7, 1500
    total = Counter()
    for seed in range(seeds):
        mixture = Mixture(sets, {"en": 2, "zh": 1}, seed)
        read = mixture.epochs(rows)
        total.update(
            {
                (cell.name, cell.language): read[cell.name, cell.language] * cell.pairs
                for cell in mixture.cells
            }
        )
    for cell in mixture.cells:
        # A count differs from its mean by less than 2, so the mean of 1,500 by less than 0.2 but for 1 in 10,000.
        assert total[cell.name, cell.language] / seeds == pytest.approx(rows * cell.share, abs=0.2)
    assert rows * mixture.cells[0].share % 1 > 0.2, "a whole number would show nothing"


def test_languages_are_met_and_sets_share_within_a_language_by_their_pairs_in_it(mixture):
    shares = {(cell.name, cell.language): cell.share for cell in mixture.cells}
    # A third of coco's pairs is Chinese, and all of wukong's, which weighs three times as much.
    assert shares == pytest.approx({("coco", "en"): 0.5, ("coco", "zh"): 0.05, ("wukong", "zh"): 0.45})


def test_without_languages_sets_are_met_and_speak_as_they_do(sets):
    mixture = Mixture(
        {name: (shards, weight) for (name, (_, shards)), weight in zip(sets.items(), (1, 3), strict=True)}
    )
    shares = {(cell.name, cell.language): cell.share for cell in mixture.cells}
    expected = {("coco", "en"): 0.25 * 2 / 3, ("coco", "zh"): 0.25 / 3, ("wukong", "zh"): 0.75}
    assert shares == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sets", "languages", "message"),
    [
        ({}, None, "at least one data set"),
        ({"a": (Counted(en=1), 0.0)}, None, "sets: 'a' has weight 0.0"),
        ({"a": (Counted(en=1), float("nan"))}, None, "has weight nan"),
        ({"a": (Counted(en=1), 1)}, {"en": 1, "de": 1}, "'de' is not one of en, zh"),
        ({"a": (Counted(en=1), 1)}, {"en": 1, "zh": 1}, "no data set has a caption in 'zh'"),
        ({"a": (Counted(en=1), 1), "b": (Counted(zh=1), 1)}, {"en": 1}, "'b' has no captions in en"),
        ({"a": (Counted(), 1)}, None, "'a' has no captions in en or zh"),
    ],
)
def test_a_mixture_that_cannot_be_says_why(sets, languages, message):
    with pytest.raises(ValueError, match=message):
        Mixture(sets, languages)


# --- random access ---


def test_shards_give_any_record_and_pair_in_any_order(sets):
    pairs, shards = sets["coco"]
    assert len(shards.tars) > 3, "the test must cross tars"
    for language in ("en", "zh"):
        expected = [pair for pair in pairs if pair.language == language]
        assert shards.pairs(language) == len(expected)
        for number in np.random.default_rng().permutation(len(expected)):
            row, nth = shards.locate(language, number)
            record = shards[row]
            own = [
                c for c, spoken in zip(record.captions, record.languages, strict=True) if spoken == language
            ]
            assert (own[nth], record.image_id) == (expected[number].caption, expected[number].image_id)
    for wrong in (-1, len(shards)):
        with pytest.raises(IndexError):
            shards[wrong]
    with pytest.raises(IndexError):
        shards.locate("en", shards.pairs("en"))


def test_more_tars_than_may_be_open_are_read_all_the_same(sets, monkeypatch):
    monkeypatch.setattr("zvl.data.tars.OPEN", 2)
    shards = Shards(sets["wukong"][1].tars)
    assert [shards[n].image for n in range(len(shards))] == [
        sets["wukong"][1][n].image for n in range(len(shards))
    ]
    assert len(shards._open) <= 2


# --- batches ---


def test_a_batch_holds_the_pairs_that_the_mixture_says(sets, mixture):
    by_caption = {pair.caption: pair for pairs, _ in sets.values() for pair in pairs}
    batch = batches(mixture, encode, 12, size=16)(5, 0)
    assert Counter("zh" if "第" in caption else "en" for caption in said(batch)) == {"en": 6, "zh": 6}
    for row, caption in enumerate(said(batch)):
        picture = by_caption[caption].image
        assert torch.equal(batch["pixel_values"][row], to_pixels([read_image(picture)], 16)[0])
        with open(picture, "rb") as file:
            assert batch["image_ids"][row] == image_number(file.read())
    told = batch["sample_ids"]
    assert [name.split()[0] for name in told] == [caption.split()[0] for caption in said(batch)]
    assert all("record" in name and ".tar" in name for name in told)


def test_the_same_picture_has_the_same_id_in_any_set_and_others_another(mixture):
    seen = {}
    for step in range(8):
        batch = batches(mixture, encode, 12, size=16)(step, 0)
        for number, caption in zip(batch["image_ids"].tolist(), said(batch), strict=True):
            seen.setdefault(caption.split()[0] + caption.split()[1].strip("第张"), set()).add(number)
    assert all(len(numbers) == 1 for numbers in seen.values())
    assert len(set().union(*seen.values())) == len(seen) > 20


def test_any_number_of_workers_and_any_first_step_give_the_same_batches(mixture):
    steps = [(step, micro) for step in range(2, 7) for micro in (2, 3)]  # over epochs; of the second process
    options = {"size": 16, "accumulation": 2, "processes": 2}
    alone = [batches(mixture, encode, 4, **options)(*place) for place in steps]
    for workers in (1, 4):
        ahead = batches(mixture, encode, 4, **options, workers=workers)
        assert all(equal(ahead(*place), batch) for place, batch in zip(steps, alone, strict=True))
    resumed = batches(mixture, encode, 4, **options, workers=2)  # in the middle of an epoch
    assert all(equal(resumed(*place), batch) for place, batch in zip(steps[5:], alone[5:], strict=True))
    assert equal(resumed(2, 2), alone[0]), "going back must start anew"
    assert len({tuple(said(batch)) for batch in alone}) == len(steps)


def test_two_ranks_see_disjoint_rows_whose_union_is_the_batch_of_one(mixture):
    for step in (0, 1):  # before an epoch ends, after which a pair may come again
        one = batches(mixture, encode, 12, size=16)(step, 0)
        ranks = [batches(mixture, encode, 6, size=16, processes=2)(step, rank) for rank in (0, 1)]
        tensors = [name for name in one if torch.is_tensor(one[name])]
        assert all(torch.equal(torch.cat([rank[name] for rank in ranks]), one[name]) for name in tensors)
        assert [name for rank in ranks for name in rank["sample_ids"]] == one["sample_ids"]
        rows = [set(mixture.indices(step, rank, 6, 2)) for rank in (0, 1)]
        assert not rows[0] & rows[1]
    with pytest.raises(ValueError, match="micro-batch 2 of step 0; a step has 2"):
        mixture.indices(0, 2, 6, 2)


def test_the_loop_gets_what_it_trains_on_from_a_real_tokenizer(mixture):
    tokenizer = backbones.load_tokenizer()
    batch = batches(mixture, lambda captions: caption_ids(tokenizer, captions), 8, size=96, workers=2)(0, 0)
    assert batch["pixel_values"].shape == (8, 3, 96, 96) and batch["pixel_values"].dtype == torch.float32
    assert batch["input_ids"].shape == batch["text_mask"].shape and batch["text_mask"].any(1).all()
    assert batch["image_ids"].dtype == torch.int64


def test_what_is_ahead_is_made_by_others_and_errors_come_through():
    class Squares:
        def __getitem__(self, place):
            if place == (2, 0):
                raise KeyError("broken")
            return place[0] ** 2 + place[1]

    get = prefetched(Squares(), accumulation=2, workers=2)
    assert [get(0, 0), get(0, 1), get(1, 0), get(1, 1)] == [0, 1, 1, 2]
    with pytest.raises(KeyError, match="broken"):
        get(2, 0)


# --- broken records ---


@pytest.fixture
def broken(tmp_path):
    """A set of 8 pictures whose third is damaged in the tar, after its index was made."""
    pairs, shards = made(tmp_path, "own", 8, 1, 0, pairs_per_shard=8)
    tar = shards.tars[0]
    data = bytearray(tar.read_bytes())
    place = data.index(shards[2].image)
    data[place : place + 8] = b"no image"
    tar.write_bytes(data)
    return pairs, Shards(shards.tars)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_is_replaced_by_another_and_counted_once(broken, workers):
    pairs, shards = broken
    mixture, quarantine = Mixture({"own": (shards, 1)}), Quarantine()
    made = batches(mixture, encode, 8, size=16, workers=workers, quarantine=quarantine)
    for epoch in range(3):
        other = (2 + stride(8)) % 8
        wanted = [pairs[pair if pair != 2 else other].caption for _, _, pair in mixture.indices(epoch, 0, 8)]
        assert said(made(epoch, 0)) == wanted
        named = [int(told.split("record ")[1].split(",")[0]) for told in made(epoch, 0)["sample_ids"]]
        assert [pairs[number].caption for number in named] == wanted, "names are of what the batch holds"
    assert quarantine.rows == [("shard-000000.tar", "2", "image", "differs from its SHA-256")]


def test_others_in_the_place_of_a_broken_pair_reach_all_pairs_and_lie_far_apart():
    for count in (1, 2, 3, 8, 97, 1000, 12_345):
        reached = {attempt * stride(count) % count for attempt in range(count)}
        assert len(reached) == count
        assert count < 8 or min(stride(count), count - stride(count)) > count / 4


def test_what_is_held_out_is_in_no_batch(broken):
    pairs, shards = broken
    away = {image_number(shards[number].image) for number in (0, 5)}
    made = batches(Mixture({"own": (shards, 1)}), encode, 8, size=16, held_out=away)
    seen = {caption for step in range(4) for caption in said(made(step, 0))}
    assert seen == {pair.caption for number, pair in enumerate(pairs) if number not in (0, 2, 5)}


def test_workers_leave_the_random_state_of_the_training_alone(mixture):
    made = batches(mixture, encode, 4, size=16, workers=1)
    before = torch.get_rng_state()
    made(0, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_last_pair_is_replaced_too_and_a_broken_tar_is_not_fatal(broken):
    pairs, shards = broken
    with open(shards.tars[0], "r+b") as file:
        file.truncate(int(shards._at[0][7]) * 512 - 600)  # the last record's text and picture are gone
    quarantine = Quarantine()
    made = batches(Mixture({"own": (shards, 1)}), encode, 8, size=16, quarantine=quarantine)
    there = Counter(said(made(0, 0)))
    assert sum(there.values()) == 8 and not there[pairs[7].caption]
    assert quarantine.counts() == {
        "image: differs from its SHA-256": 1,
        "tar: shorter than its index says": 1,
    }


def test_a_set_that_is_all_broken_stops_with_its_name(broken):
    _, shards = broken
    with open(shards.tars[0], "r+b") as file:
        file.truncate(10)
    made = batches(Mixture({"own": (shards, 1)}), encode, 4, size=16)
    with pytest.raises(
        DataError, match=r"'own': 8 pairs are broken or held out, the last in .*shard-000000\.tar"
    ):
        made(0, 0)


def test_pictures_of_every_kind_come_as_the_rest_of_the_code_reads_them(tmp_path):
    pairs = []
    for number, mode in enumerate(("RGB", "RGBA", "L", "P", "CMYK", "I;16")):
        path = tmp_path / f"{number}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (20, 20), 40 if mode in ("L", "P", "I;16") else (10, 200, 30, 90)[: len(mode)]).save(
            path
        )
        pairs.append(Pair(str(number), str(path), str(number), "en", "own"))
    write_shards(pairs, tmp_path / "out", {})
    batch = batches(Mixture({"own": (Shards(tmp_path / "out"), 1)}), encode, 6, size=8)(0, 0)
    for row, caption in enumerate(said(batch)):
        assert torch.equal(
            batch["pixel_values"][row], to_pixels([read_image(pairs[int(caption)].image)], 8)[0]
        )
