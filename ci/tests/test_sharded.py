"""Training pairs come from shards where a run names them: pixels, both languages, the names of the rows."""

import functools
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from zvl import config
from zvl.data.rows import Fault
from zvl.data.samples import Pair
from zvl.data.shards import write_shards
from zvl.data.tars import Shards
from zvl.training import pretraining, schedule, sharded, sight


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two data sets, one in English alone, one in both languages."""
    root, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng()
    for name, languages, count in (("english", ("en",), 12), ("both", ("en", "zh"), 6)):
        pairs = []
        for i in range(count):
            path = root / f"{name}{i}.png"
            Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(path)
            texts = {"en": f"a {name} picture {i}", "zh": f"图片{i}"}
            pairs += [Pair(str(i), str(path), texts[lang], lang, name) for lang in languages]
        write_shards(pairs, root / "tars" / name, {"reader": name}, grouped=True)
    return root / "tars"


def test_all_sets_below_a_folder_are_read_and_languages_are_halves(folder):
    preset = config.nano().with_run(steps=2, batch_size=8, accumulation=2, data=str(folder))
    assert list(sharded.folders(preset.parts.data)) == ["both", "english"]
    assert list(sharded.folders(str(folder / "both"))) == ["both"]
    batches = sharded.batches(preset, 2)
    batch, again = batches(0, 1), sharded.batches(preset, 1)(0, 1)
    assert batch["pixel_values"].shape == (8, 3, 96, 96)
    assert all(torch.equal(batch[name], again[name]) for name in batch if name != "sample_ids")
    chinese = [name for name in batch["sample_ids"] if " zh: " in name]
    assert len(batch["sample_ids"]) == 8 and len(chinese) == 4 and all(n.startswith("both") for n in chinese)


def test_weights_in_the_folder_decide_and_odd_names_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "tars")
    (tmp_path / "tars/weights.yaml").write_text("sets: {english: 3}\nlanguages: {en: 3, zh: 1}\n")
    shares = {(c.name, c.language): c.share for c in sharded.mixture(str(tmp_path / "tars"), 0).cells}
    assert shares == pytest.approx({
        ("both", "en"): 0.75 * 6 / 42, ("both", "zh"): 0.25, ("english", "en"): 0.75 * 36 / 42,
    })  # fmt: skip
    assert sharded.index_files(str(tmp_path / "tars"))[-1].name == "weights.yaml", "it is part of the key"
    for odd in ("sets: {both: twice}", "sets: [both]", "both"):
        (tmp_path / "tars/weights.yaml").write_text(odd)
        with pytest.raises(ValueError, match=r"weights\.yaml: sets: needs lines of a name and a number"):
            sharded.mixture(str(tmp_path / "tars"), 0)
    (tmp_path / "tars/weights.yaml").write_text("sets: {wukong: 3}\n")
    with pytest.raises(ValueError, match=r"weights\.yaml: sets: 'wukong' is not one of both, english"):
        sharded.mixture(str(tmp_path / "tars"), 0)


def test_pairs_of_the_shards_are_held_out_for_the_evaluation_and_in_no_batch(tmp_path):
    rng, pairs = np.random.default_rng(), []
    for i in range(60):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(path)
        pairs += [
            Pair(str(i), str(path), f"picture {i}", "en", "own"),
            Pair(str(i), str(path), f"图{i}", "zh", "own"),
        ]
    write_shards(pairs, tmp_path / "own", {}, grouped=True)
    preset = config.nano().with_run(steps=8, batch_size=16, accumulation=1, data=str(tmp_path / "own"))
    aside, away = sharded.held_out(preset, schedule.new_vision(preset))
    assert [list(pairs.captions) for pairs in aside] == [["en"], ["zh"]]
    assert [len(pairs.image_embeds) for pairs in aside] == [6, 6], "a tenth of the pairs"
    batches = sharded.batches(preset, 1, away)
    seen = {number for step in range(8) for number in batches(step, 0)["image_ids"].tolist()}
    assert len(away) == 6 and not seen & away and len(seen) > 30


def test_kept_features_are_those_of_the_pictures_and_broken_records_have_none(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "tars")
    tar = next((tmp_path / "tars/english").glob("*.tar"))
    data = bytearray(tar.read_bytes())
    place = int(Shards(tmp_path / "tars/english")._at[0][3]) * 512
    data[place : place + 8] = b"no image"
    tar.write_bytes(data)
    preset = config.nano().with_run(steps=2, batch_size=8, accumulation=1, data=str(tmp_path / "tars"))
    vision = schedule.new_vision(preset)
    kept = sharded.kept_features(preset, tmp_path, vision, {"vit": 1})
    batch, live = (sharded.batches(preset, 1, kept=looks)(1, 0) for looks in (kept, None))
    assert batch["sample_ids"] == live["sample_ids"] and "pixel_values" not in batch
    expected = sight.see(vision, live["pixel_values"])
    torch.testing.assert_close(batch["image_embeds"].float(), expected, atol=0.05, rtol=0.05)
    with pytest.raises(Fault, match="differs from its SHA-256"):
        kept["english"](3)


def test_a_folder_without_tars_is_refused(tmp_path):
    with pytest.raises(ValueError, match="allowed are 'moji', a folder that `zvl shards` made"):
        sharded.folders(str(tmp_path))


def test_captions_of_each_set_and_language_are_evenly_spaced(folder):
    found = list(sharded.captions(str(folder), 4))
    assert [(p.source, p.language) for p in found] == [
        (name, language)
        for name, language in (("both", "en"), ("both", "zh"), ("english", "en"))
        for _ in range(4)
    ]
    assert found[0].caption == "a both picture 0" and found[7].caption == "图片5", "the first and the last"
    assert len(list(sharded.captions(str(folder)))) == 6 + 6 + 12, "all, where there are fewer"


def test_shards_without_a_pair_say_so(tmp_path):
    gone = Pair("1", str(tmp_path / "gone.png"), "gone", "en", "none")
    write_shards([gone], tmp_path / "none", {"reader": "none"})
    with pytest.raises(ValueError, match="no pairs in none"):
        list(sharded.captions(str(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("features", ["live", "kept"])
def test_pretraining_reads_the_shards(folder, tmp_path, monkeypatch, whole, features):
    preset = config.nano().with_run(
        steps=2, batch_size=4, accumulation=2, data=str(folder), features=features
    )
    chosen = replace(preset.pretraining, whole_batch_contrast=whole, wrong_captions=0.0)
    preset = replace(preset, pretraining=chosen)
    asked, made = [], sharded.batches

    def watched(*arguments):
        batches = made(*arguments)
        return lambda step, micro: asked.append((step, micro)) or batches(step, micro)

    monkeypatch.setattr(sharded, "batches", watched)
    monkeypatch.setattr(pretraining, "pair_batches", functools.partial(pytest.fail, "read Moji's pairs"))
    _, history = schedule.pretrain(preset, tmp_path)
    assert asked == [(0, 0), (0, 1), (1, 0), (1, 1)] and np.isfinite(history[-1]["loss"])
