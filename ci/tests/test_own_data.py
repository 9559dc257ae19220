"""One's own pictures train by parameters alone: a csv of captions, or conversations in LLaVA's form."""

import csv
import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import ExifTags, Image

from zvl import results, run
from zvl.config import nano
from zvl.data import own as files
from zvl.data.caption_rules import spoken
from zvl.data.own import OwnData
from zvl.data.pixels import read_image
from zvl.data.rows import DataError
from zvl.data.samples import Pair, Sample, Turn
from zvl.model import backbones, tokenizers
from zvl.results import UsageError
from zvl.training import own, pretraining, schedule, sight
from zvl.training.material import Data

FIXTURE = Path(__file__).parent / "fixtures" / "own" / "pairs.csv"


def read_own(data, folder):
    """One's own data with the nano ViT and tokenizer, 16 queries a picture."""
    vision, tokenizer = backbones.load_clip().vision_model, backbones.load_tokenizer()
    return own.read(data, folder, 16, vision, {"vit": "nano"}, tokenizer)


COLOURS = {"red": "红色", "green": "绿色", "blue": "蓝色", "white": "白色"}


def picture(path, seed=0, size=None):
    """A picture of a size and content of its own."""
    draw = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = size or (draw.randint(20, 200), draw.randint(20, 200))
    Image.effect_noise(size, draw.uniform(20, 90)).convert("RGB").save(path)


def write_pairs(path, rows, header=("image", "caption")):
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with open(path, "w", newline="", encoding="utf8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return OwnData(pairs=str(path))


def write_talk(path, rows):
    """rows: (image, question, answer, ...)."""
    content = [
        {"id": str(n), "image": image, "conversations": [
            {"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(said)]}
        for n, (image, *said) in enumerate(rows)
    ]  # fmt: skip
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf8")
    return OwnData(conversations=str(path))


def forty(folder):
    """40 pictures, a caption of each in one language in turn, and a conversation about each."""
    rows, talks = [], []
    for n in range(40):
        picture(folder / f"pics/{n}.png", n)
        en = list(COLOURS)[n % 4]
        rows.append(
            (f"pics/{n}.png", f"Noise of kind {n}, {en}." if n % 2 else f"第{n}种杂点，{COLOURS[en]}。")
        )
        talks.append((f"pics/{n}.png", "<image>\nWhich colour?", en, "用中文说呢？", COLOURS[en]))
    pairs, talk = write_pairs(folder / "pairs.csv", rows), write_talk(folder / "talk.json", talks)
    return replace(pairs, conversations=talk.conversations)


def all_there(image):
    return ""


# --- the files ---


def test_the_csv_of_the_readme_is_read_and_a_missing_language_is_that_of_the_script(tmp_path):
    shutil.copy(FIXTURE, tmp_path)
    found = files.rows(OwnData(pairs=str(tmp_path / FIXTURE.name)), all_there)
    told = [(Path(p.image).relative_to(tmp_path).as_posix(), p.caption, p.language) for p in found.pairs]
    assert told == [
        ("cats/1.jpg", "Two cats on a sofa.", "en"),
        ("cats/1.jpg", "沙发上的两只猫。", "zh"),
        ("dog.png", "A dog, asleep.", "en"),
    ]


def test_a_tab_separated_file_and_another_folder_of_pictures_do_as_well(tmp_path):
    (tmp_path / "lists").mkdir()
    data = write_pairs(tmp_path / "lists/pairs.tsv", [("a.png", "一只狗, 在睡觉")])
    (pair,) = files.rows(replace(data, images=str(tmp_path / "photos")), all_there).pairs
    assert (pair.image, pair.language) == (str(tmp_path / "photos/a.png"), "zh")


@pytest.mark.parametrize("text, language", [
    ("Two cats.", "en"), ("两只猫。", "zh"), ("一件T恤", "zh"), ("a bowl of hot 拉面", "en"),
    ('A sign that says "小心地滑"', "en"), ("“小心地滑”", "zh"), ("“STOP”的牌子", "zh"), ("42", "en"), ("", "en"),
])  # fmt: skip
def test_the_script_tells_the_language(text, language):
    assert spoken(text) == language


def test_rows_that_cannot_be_used_are_put_aside_counted_and_not_fatal(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = [
        ("a.png", "A thing."),
        ("gone.png", "Gone."),
        ("bad.png", "Bad."),
        ("a.png", " "),
        ("../a.png", "Out."),
    ]
    pairs = write_pairs(tmp_path / "pairs.csv", [(*row, "en") for row in rows] + [("a.png", "Une chose.", "fr")],
                        ("image", "caption", "language"))  # fmt: skip
    talk = write_talk(tmp_path / "talk.json", [("a.png", "What?", "A thing."), ("gone.png", "What?", "Gone."),
                                               ("a.png", "What?"), ([], "What?", "No picture.")])  # fmt: skip
    found = read_own(replace(pairs, conversations=talk.conversations), tmp_path / "stages")
    assert [pair.caption for pair in found.train.pairs] == ["A thing."]
    assert [sample.turns for sample in found.train.dialogues] == [(Turn("What?", "A thing."),)]
    assert found.put_aside == {
        "pairs.csv": {
            "image: no such file": 1, "image: no picture that Pillow can decode: UnidentifiedImageError": 1,
            "caption: empty or not text": 1, "image: leaves the image folder": 1, "language: not one of en, zh": 1,
        },
        "talk.json": {
            "image: no such file": 1, "conversations: needs pairs of human and gpt turns": 1,
            "image: none, and what trains is how pictures are read": 1,
        },
    }  # fmt: skip
    for reason in ("no such file", "no picture that Pillow can decode", "empty or not text"):
        assert reason in str(found), "the notebook prints it"


def test_a_file_without_a_row_that_can_be_used_says_why(tmp_path):
    data = write_pairs(tmp_path / "pairs.csv", [("gone.png", "Gone."), ("lost.png", "Lost.")])
    with pytest.raises(DataError, match=r"pairs\.csv: no row can be used \(2 x image: no such file\)"):
        read_own(data, tmp_path / "stages")
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_own(OwnData(pairs=str(tmp_path / "none.csv")), tmp_path / "stages")
    with pytest.raises(DataError, match=r"pairs\.csv: line 1: no column 'caption'"):
        read_own(write_pairs(tmp_path / "pairs.csv", [], ("image", "text")), tmp_path / "stages")


def test_the_hash_of_ones_own_data_follows_words_pictures_and_share_but_not_the_place(tmp_path):
    here = forty(tmp_path / "here")
    first = files.content(here)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    there = OwnData(str(tmp_path / "there/pairs.csv"), str(tmp_path / "there/talk.json"))
    assert files.content(there) == first != files.content(replace(there, share=0.3))
    picture(tmp_path / "there/pics/3.png", seed=99)
    assert (changed := files.content(there)) != first
    with open(there.pairs, "a", encoding="utf8") as file:
        file.write("pics/0.png,More.\n")
    assert files.content(there) not in (first, changed)


@pytest.mark.parametrize("share", [0, -0.1, 1.5])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="own_share"):
        OwnData(pairs="a.csv", share=share)


def test_a_photograph_taken_sideways_is_upright(tmp_path):
    image, notes = Image.new("RGB", (40, 20), "red"), Image.Exif()
    image.paste("blue", (0, 0, 20, 20))
    notes[ExifTags.Base.Orientation] = 6  # turn it clockwise to look at it
    image.save(tmp_path / "a.jpg", exif=notes, quality=95)
    seen = read_image(str(tmp_path / "a.jpg"))
    assert seen.size == (20, 40) and seen.getpixel((10, 2))[2] > 200 and seen.getpixel((10, 38))[0] > 200
    image.save(tmp_path / "b.jpg", exif=b"Exif\0\0no notes at all", quality=95)
    assert read_image(str(tmp_path / "b.jpg")).size == (40, 20), "damaged notes cost no picture"


# --- as trainings take them ---


def test_a_tenth_of_the_pictures_is_held_out_whatever_the_order_of_the_rows(tmp_path):
    data = forty(tmp_path)
    found = read_own(data, tmp_path / "stages")
    away = {image for sample in found.test.dialogues for image in sample.images}
    assert len(away) == 4 and away == {pair.image for pair in found.test.pairs}
    trained = {i for s in (*found.train.dialogues, *found.train.questions) for i in s.images}
    assert not away & trained and not away & set(found.train.images) and len(trained) == 36
    assert all(found.train.features[n].any() for n in found.train.row.values())

    with open(data.pairs, encoding="utf8") as file:
        header, *rows = csv.reader(file)
    again = read_own(write_pairs(Path(data.pairs), rows[::-1], header), tmp_path / "stages")
    assert {pair.image for pair in again.test.pairs} == away


def test_of_few_pictures_none_is_held_out(tmp_path):
    for n in range(19):
        picture(tmp_path / f"{n}.png", n)
    data = write_pairs(tmp_path / "pairs.csv", [(f"{n}.png", f"Number {n}.") for n in range(19)])
    assert len(read_own(data, tmp_path / "stages").test.images) == 0


def test_features_belong_to_their_pictures_and_a_copy_is_the_same_picture(tmp_path):
    for name, seed in (("a.png", 1), ("b.png", 2)):
        picture(tmp_path / name, seed)
    shutil.copy(tmp_path / "b.png", tmp_path / "a copy of b.png")
    rows = [("b.png", "B."), ("a.png", "A."), ("a copy of b.png", "B again.")]
    data = read_own(write_pairs(tmp_path / "pairs.csv", rows), tmp_path / "stages").train
    b, a, copy = (data.row[pair.image] for pair in data.pairs)
    assert a != b == copy, "to the contrast both are one picture"
    for name, number in (("a.png", a), ("b.png", b)):
        expected = sight.look(backbones.load_clip().vision_model, [str(tmp_path / name)])[0]
        torch.testing.assert_close(data.features[number], expected, atol=0.05, rtol=0.05)


def test_what_is_too_long_is_cut_and_counted(tmp_path):
    picture(tmp_path / "a.png")
    long = "many words on a sofa " * 60
    pairs = write_pairs(tmp_path / "pairs.csv", [("a.png", long), ("a.png", "Short.")])
    talk = write_talk(tmp_path / "talk.json", [
        ("a.png", "<image>\nWhat?", "A sofa.", "More?", long * 3, "And?", "No."), ("a.png", "What?", long * 3),
        ("a.png", long * 3, "Yes."), ("a.png", "What?", "A sofa."),
    ])  # fmt: skip
    found = read_own(replace(pairs, conversations=talk.conversations), tmp_path / "stages")
    assert found.cut == 3 and found.put_aside["talk.json"] == {own.NO_ROOM: 1}
    assert [len(sample.turns) for sample in found.train.dialogues] == [1, 1, 1]
    tokenizer = backbones.load_tokenizer()
    ids, _ = tokenizers.caption_ids(tokenizer, [p.caption for p in found.train.pairs], own.CAPTION_TOKENS)
    assert ids.shape == (2, own.CAPTION_TOKENS)
    ends = (ids == tokenizer.eos_token_id).sum(dim=1).tolist()
    assert ends == [1, 1], "a caption that was cut ends where it was cut"
    batch = batches_of("chat", found.train, 1.0)(0, 0)
    assert batch["input_ids"].shape[1] == own.DIALOGUE_TOKENS


def made_up(names, images, features):
    """A Data of so many pictures, two captions, a question and a conversation each."""
    paths = tuple(f"{names}{n}.png" for n in range(images))
    pairs = tuple(Pair(p, p, f"{names} {lang}", lang, "test") for p in paths for lang in ("en", "zh"))
    asked = tuple(Sample(p, (p,), (Turn(f"ask {names}", f"{names} {p}"),), language=lang)
                  for p in paths for lang in ("en", "zh"))  # fmt: skip
    talks = tuple(Sample(p, (p,), (Turn("hello", f"{names} talk"), Turn("again", names))) for p in paths)
    return Data(pairs, (), (), asked, talks, (), paths, torch.full((images, 65, 192), float(features)).half())


def alike(batch, other):
    """Tensors and names."""
    return batch.keys() == other.keys() and all(
        torch.equal(value, other[name]) if torch.is_tensor(value) else value == other[name]
        for name, value in batch.items()
    )


WORLD, MINE = made_up("world", 7, 0), made_up("mine", 5, 1)


def batches_of(kind, mine, share, stage=1):
    config = getattr(nano(), kind)[stage]
    return schedule.tuning_batches(config, kind, WORLD, backbones.load_tokenizer(), 16, False, mine, share)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_pretraining_mixes_at_the_share_and_by_the_step_alone(share):
    preset, tokenizer = nano().with_own("p.csv", "", "", share), backbones.load_tokenizer()
    one, other = (pretraining.pair_batches(preset, WORLD, tokenizer, MINE) for _ in range(2))
    one(0, 0)
    batch, same = one(4, 0), other(4, 0)
    assert alike(batch, same)
    mine = batch["image_ids"] >= len(WORLD.images)
    assert len(mine) == preset.pretraining.batch_size and float(mine.float().mean()) == share
    assert torch.equal(batch["image_embeds"].mean(dim=(1, 2)), mine.float()), "features of the right pictures"
    words = [tokenizer.decode(row) for row in batch["input_ids"]]
    assert [("mine" in text) for text in words] == mine.tolist()
    noisy = replace(preset, pretraining=replace(preset.pretraining, word_noise=1.0))
    rows = pretraining.pair_batches(noisy, WORLD, tokenizer, MINE)(4, 0)["input_ids"]
    told = {pair.caption.replace(" ", "") for pair in MINE.pairs}
    kept = [tokenizer.decode(row, skip_special_tokens=True).replace(" ", "") in told for row in rows[mine]]
    assert all(kept), "words of one's own captions are never exchanged"
    assert not torch.equal(one(5, 0)["image_ids"], batch["image_ids"])


def test_without_ones_own_data_batches_are_those_of_the_world():
    tokenizer = backbones.load_tokenizer()
    batch = pretraining.pair_batches(nano(), WORLD, tokenizer)(2, 0)
    no_pairs = pretraining.pair_batches(nano(), WORLD, tokenizer, replace(MINE, pairs=()))(2, 0)
    assert alike(batch, no_pairs)
    assert batch["image_ids"].max() < len(WORLD.images)
    plain, empty = (
        batches_of("base", None, 0.5)(1, 0),
        batches_of("base", replace(MINE, questions=(), dialogues=()), 0.5)(1, 0),
    )
    assert torch.equal(plain["input_ids"], empty["input_ids"])


@pytest.mark.parametrize("kind", ["base", "chat"])
@pytest.mark.parametrize("stage", [0, 1])
def test_tuning_mixes_conversations_and_captions_at_the_share(kind, stage):
    tokenizer, size = backbones.load_tokenizer(), getattr(nano(), kind)[stage].batch_size
    seen = set()
    for step in range(4):
        batch = batches_of(kind, MINE, 0.5, stage)(step, 0)
        texts = [tokenizer.decode(row) for row in batch["input_ids"]]
        about_mine = ["mine" in text for text in texts]
        assert sum(about_mine) == size // 2, "one dialogue for each picture of one's own"
        embeds = batch["image_embeds"][batch["image_index"]].mean(dim=(1, 2))
        assert embeds.bool().tolist() == about_mine, "each dialogue has its own picture"
        seen |= {form for form in ("ask", "hello") for text in texts if "mine" in text and form in text}
    assert seen == {"ask", "hello"}
    assert all(
        "mine" in tokenizer.decode(row) for row in batches_of(kind, MINE, 1.0, stage)(0, 0)["input_ids"]
    )


# --- as commands take them ---


def notebook(name):
    return results.repository() / "notebooks" / f"{name}.ipynb"


def gathered(**given):
    return run.gather_parameters(
        notebook("03_qformer_pretraining"), "nano", results.run_folder("runs/nano"), [], given
    )


def test_paths_are_relative_to_where_the_command_was_given(tmp_path, monkeypatch):
    forty(tmp_path / "my")
    monkeypatch.chdir(tmp_path)
    given = gathered(own_pairs="my/pairs.csv", own_images="my", own_share=1)
    assert given == {
        "own_pairs": f"{tmp_path}/my/pairs.csv",
        "own_images": f"{tmp_path}/my",
        "own_share": 1.0,
    }
    assert gathered(own_pairs="") == {"own_pairs": ""}


@pytest.mark.parametrize("given, said", [
    ({"own_pairs": "no/pairs.csv"}, r"no/pairs\.csv: no such file"),
    ({"own_conversations": "my/pairs.csv"}, r"pairs\.csv: not JSON"),
    ({"own_pairs": "my/pairs.csv", "own_images": "no"}, "own_images: no folder"),
    ({"own_pairs": "my/pairs.csv", "own_share": 2.0}, "own_share is 2.0"),
    ({"own_images": "my"}, "own_images is a folder for own_pairs"),
])  # fmt: skip
def test_what_cannot_train_is_refused_before_anything_runs(given, said, tmp_path, monkeypatch):
    forty(tmp_path / "my")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        gathered(**given)


def test_a_changed_caption_or_picture_makes_the_notebook_run_again(tmp_path):
    path = notebook("03_qformer_pretraining")
    given = {"own_pairs": forty(tmp_path).pairs}
    first = run.fingerprint(path, given, {})
    assert run.fingerprint(path, given, {}) == first
    picture(tmp_path / "pics/7.png", seed=77)
    assert (second := run.fingerprint(path, given, {})) != first
    Path(given["own_pairs"]).write_text("image,caption\npics/7.png,New.\n", encoding="utf8")
    assert run.fingerprint(path, given, {}) not in (first, second)


def test_all_notebooks_that_train_take_the_same_parameters_of_ones_own():
    found = []
    for name in ("03_qformer_pretraining", "04_multitask_tuning", "05_scene_aware_tuning"):
        cells = json.loads(notebook(name).read_text("utf8"))["cells"]
        (cell,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
        found.append(re.findall(r"^(own_\w+: \w+ = [^ ]+)", "".join(cell["source"]), re.M))
    assert len(found[0]) == 4 and found[0] == found[1] == found[2]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Notebooks 03 and 04 as they stand, but for a Moji world of fewer training scenes; and one's own data."""
    place = tmp_path_factory.mktemp("own")
    for name in ("03_qformer_pretraining", "04_multitask_tuning"):
        text = notebook(name).read_text("utf8")
        line = r"(settings|config) = \1\.with_own\(.*?\)"
        small = r"\g<0>; less = __import__('dataclasses').replace; "
        small += r"\1 = less(\1, world=less(\1.world, train_scenes=200))"
        text, count = re.subn(line, small, text)
        assert count == 1
        (place / "notebooks").mkdir(exist_ok=True)
        (place / "notebooks" / f"{name}.ipynb").write_text(text, encoding="utf8")
    forty(place / "my")
    with open(place / "my/pairs.csv", "a", encoding="utf8") as file:
        file.write("pics/gone.png,Not there.\n")
    return place


def trained(workplace, only, monkeypatch, **given):
    """Run a notebook with the smoke parameters from the folder of the workplace; what it recorded and printed."""
    monkeypatch.chdir(workplace)
    figures = run.run("nano", [only], given, workplace / "run", results.repository() / "notebooks/params/smoke",
                      notebook_folder=workplace / "notebooks")  # fmt: skip
    (name,) = [path.stem for path in workplace.glob(f"notebooks/{only}*")]
    (content,) = [c for n, c in results.read_all(workplace / "run").items() if n == name]
    return figures, content["context"], (workplace / f"run/notebooks/{name}.ipynb").read_text("utf8")


def stage(workplace, name):
    (marker,) = workplace.glob(f"run/stages/{name}-*/complete.json")
    return json.loads(marker.read_text("utf8"))["inputs"]


@pytest.mark.slow
def test_a_csv_trains_the_qformer_by_parameters_alone(workplace, monkeypatch):
    figures, context, page = trained(workplace, "03", monkeypatch, own_pairs="my/pairs.csv", own_share=0.75)
    told = context["own"]
    assert told["train"].startswith("36 pictures, 36 captions") and told["held_out"].startswith("4 pictures")
    assert told["put_aside"] == {"pairs.csv": {"image: no such file": 1}}
    assert "put aside, pairs.csv: 1 x image: no such file" in page
    measured = [name for name in figures if re.fullmatch(r"own/(en|zh)/tr1_[234]", name)]
    assert measured and all(f"one of {name[-1]}, after training" in page for name in measured)
    assert "pretraining/en/tr1_100" in figures, "what the Moji world still has"

    data = OwnData(pairs=str(workplace / "my/pairs.csv"), share=0.75)
    assert stage(workplace, "pretraining")["own"] == files.content(data), (
        "the training counts them among its inputs"
    )
    (history,) = workplace.glob("run/stages/pretraining-*/history.json")
    assert json.loads(history.read_text("utf8"))[-1]["step"] == round(0.02 * nano().pretraining.loop.steps)


@pytest.mark.slow
def test_conversations_tune_both_models_by_parameters_alone(workplace, monkeypatch):
    _, context, page = trained(workplace, "04", monkeypatch, own_conversations="my/talk.json")
    assert re.match(r"36 pictures, 0 captions .* 36 conversations", context["own"]["train"])
    data = OwnData(conversations=str(workplace / "my/talk.json"))
    for kind in ("base", "chat"):
        assert stage(workplace, f"{kind}-1")["own"] == files.content(data)
        before, after = context["losses"][f"{kind.capitalize()}, own pictures held out"]
        assert (
            before != after and f"{kind.capitalize()}: loss of held-out answers {before:.2f} before" in page
        )
    assert page.count("| it says:") == 1 + 2 * 2, "in the cell, and of two held-out pictures for each model"
