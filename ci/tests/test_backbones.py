"""The shipped nano backbones: whole, small enough, as their cards say; and the text they were trained on."""

import hashlib

import numpy as np
import pytest
import torch

from zvl.cards import read_card
from zvl.data import boxes, moji, wordings
from zvl.data.samples import LANGUAGES
from zvl.model import backbones
from zvl.training import reading, reading_scores
from zvl.training.aligned import BOX_EDGES, box_code, box_edges
from zvl.training.backbones import (
    NAME_CODE,
    clip_batch,
    clip_loss,
    clip_quality,
    dense_labels,
    name_codes,
    place_loss,
    region_labels,
    region_texts,
    region_weights,
    region_words,
)
from zvl.training.slots import NUM_SLOTS, place_mixing, soft_slots

FILES = {"clip": "model.safetensors", "llm": "model.safetensors", "tokenizer": "tokenizer.json"}


def _small_pool(split, seed, max_pieces=5):
    return moji.scenes(50, split, seed, 1, max_pieces)


@pytest.fixture(scope="module")
def tokenizer():
    return backbones.load_tokenizer()


@pytest.mark.parametrize("part", FILES)
def test_the_card_names_the_hash_of_the_file_that_is_shipped(part):
    fields, _ = read_card(backbones.NANO / part / "README.md", ("id", "name", "licence", "seed", "sha256"))
    content = (backbones.NANO / part / FILES[part]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == fields["sha256"]


def test_the_shipped_weights_stay_small():
    assert sum(file.stat().st_size for file in backbones.NANO.rglob("*") if file.is_file()) < 16e6


def test_text_survives_the_tokenizer_in_both_languages(tokenizer):
    for text in (
        "Is the grapes' colour odd?\n <human>: 100%",
        "图片里有长颈鹿和T恤吗？",
        "混合 mixed 文本 ☂️",
    ):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_chinese_name_is_one_token_whatever_stands_beside_it(tokenizer):
    for concept in moji.concepts():
        name = concept.names["zh"]
        if len(name) > 1 and all("\u4e00" <= c <= "\u9fff" for c in name):
            ids = tokenizer(f"左侧是大号的{name}，", add_special_tokens=False)["input_ids"]
            assert name in [tokenizer.decode([i]) for i in ids], name


def test_the_vit_reads_pictures_alike_whatever_else_is_in_the_batch():
    model = backbones.load_clip()
    pixels = torch.randn(3, 3, 96, 96)
    with torch.no_grad():
        together, alone = model.image_embeds(pixels), model.image_embeds(pixels[1:2])
    assert together.shape == (3, 65, backbones.WIDTH)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_shipped_backbones_are_trained():
    """The ViT names boxes and patches and tells boxes; the LLaMA answers from slots; each card has the full score."""
    tokenizer, model = backbones.load_tokenizer(), backbones.load_clip()
    quality = clip_quality(model, tokenizer, pools=1)
    assert min(quality[f"{lang}/region_name_top1"] for lang in LANGUAGES) > 0.8  # chance is 1 in 225
    for aspect in ("place", "height", "frame", "ground", "number"):
        assert min(quality[f"{lang}/region_{aspect}_top1"] for lang in LANGUAGES) > 0.8, aspect
    llm = backbones.load_llm()
    score = reading_scores.reading_quality(llm, tokenizer, scenes=30)
    assert np.mean([value for name, value in score.items() if name.startswith("soft")]) > 0.7, score
    told = reading_scores.description_quality(llm, tokenizer, scenes=40)
    assert min(told[f"{lang}/recall"] for lang in LANGUAGES) > 0.7, told
    assert max(told[f"{lang}/repeats"] for lang in LANGUAGES) < 0.3, told


def test_region_weights_are_the_share_of_each_patch_that_a_piece_covers():
    scene = moji.Scene("x", "red", 0, (moji.Piece(7, "openmoji", 6, 12, 24),))
    grid = region_weights([scene])[0, 0].view(8, 8) * 24 * 24  # pixels of the piece in each 12-pixel patch
    assert grid[1].tolist() == [72, 144, 72, 0, 0, 0, 0, 0] and grid[2].tolist() == grid[1].tolist()
    assert float(grid.sum()) == pytest.approx(576)


def drawn_scenes(count):
    return moji.scenes(count, "train", int(torch.randint(1000, ())))


def test_every_region_is_told_in_words_that_are_true_of_it():
    for scene in drawn_scenes(40):
        labels = region_labels([scene])
        for language in LANGUAGES:
            words = region_words(language)

            def said(aspect, region, labels=labels, words=words):
                return words[aspect][labels[aspect][0, region]]

            for number, piece in enumerate(scene.pieces):
                phrase = wordings.piece_phrase(piece, language)
                assert said("height", number) in phrase and said("place", number) in phrase
                assert (piece.frame is None) == (said("frame", number) == wordings.NO_FRAME[language])
                if piece.frame is not None:
                    assert said("frame", number) in phrase
                if piece.word is not None:
                    assert said("name", number) == wordings.sign(piece.word, language)
                assert said("name", number) in wordings.mention(piece, language)
            told = wordings.phrases(scene, language)
            assert said("ground", -2) == told[0] and said("number", -1) in told[1]
        assert (labels["ground"][0, :-2] == -1).all() and (labels["name"][0, len(scene.pieces) :] == -1).all()


def test_the_regions_of_a_scene_and_what_is_left_over_make_the_whole_picture():
    scenes = drawn_scenes(10)
    weights = region_weights(scenes)
    for scene, weight in zip(scenes, weights, strict=True):
        area = sum(piece.side**2 for piece in scene.pieces) / 144  # in patches
        covered = sum(weight[k] * piece.side**2 / 144 for k, piece in enumerate(scene.pieces))
        torch.testing.assert_close(covered + weight[5] * (64 - area), 64 * weight[6], atol=1e-4, rtol=1e-4)


def test_a_patch_tells_the_piece_that_covers_half_of_it_and_no_other():
    scenes = drawn_scenes(30)
    labels = dense_labels(scenes)
    names = region_labels(scenes)["name"]
    for i, scene in enumerate(scenes):
        for patch in range(64):
            x, y = 12 * (patch % 8), 12 * (patch // 8)
            shares = [
                max(0, min(x + 12, p.x + p.side) - max(x, p.x))
                * max(0, min(y + 12, p.y + p.side) - max(y, p.y))
                for p in scene.pieces
            ]
            best = int(np.argmax(shares))
            if shares[best] < 72:
                bare = shares[best] < 0.05 * 144
                words = region_words("zh")
                told = (words["name"] + words["ground"])[labels["patch_name"][i, patch]] if bare else ""
                assert (
                    told == wordings.phrases(scene, "zh")[0] if bare else labels["patch_name"][i, patch] == -1
                )
                assert not labels["patch_box"][i, patch].any()
            elif sorted(shares)[-2:] != [72, 72]:  # two of just half each may go either way
                piece = scene.pieces[best]
                assert labels["patch_name"][i, patch] == names[i, best]
                corners = [piece.x, piece.y, piece.x + piece.side, piece.y + piece.side]
                assert (labels["patch_box"][i, patch] * 96).round().tolist() == corners


def test_what_patches_say_is_their_things_in_shares_and_the_ground_for_the_rest():
    scenes = drawn_scenes(6)
    labels = dense_labels(scenes)
    words = region_words("en")
    table = words["name"] + words["ground"]
    codes = name_codes(len(table))
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(len(table)))
    for i, scene in enumerate(scenes):
        ground = codes[table.index(wordings.phrases(scene, "en")[0])]
        for patch in range(64):
            x, y = 12 * (patch % 8), 12 * (patch // 8)
            said, box, left = torch.zeros(NAME_CODE), torch.zeros(BOX_EDGES), 1.0
            for p in scene.pieces:
                across = max(0, min(x + 12, p.x + p.side) - max(x, p.x))
                share = across * max(0, min(y + 12, p.y + p.side) - max(y, p.y)) / 144
                name = p.thing.names["en"] if p.word is None else wordings.sign(p.word, "en")
                said, left = said + share * codes[table.index(name)], left - share
                corners = torch.tensor([p.x, p.y, p.x + p.side, p.y + p.side]) / 96
                box = box + share * box_edges(corners)
            torch.testing.assert_close(
                labels["patch_said"][i, patch], said + left * ground, atol=1e-5, rtol=1e-4
            )
            torch.testing.assert_close(labels["patch_code"][i, patch], box, atol=1e-5, rtol=1e-4)


def test_a_step_gives_every_aspect_a_gradient(tokenizer):
    model = backbones.BilingualClip(len(tokenizer))
    for p in (
        model.vision_model.embeddings.class_embedding,
        model.vision_model.embeddings.position_embedding,
    ):
        torch.nn.init.normal_(p, std=0.02)
    where = torch.nn.Linear(backbones.WIDTH, 20 + NAME_CODE + BOX_EDGES)
    batch = clip_batch(tokenizer, 0, 8, seed=3)
    loss, metrics = clip_loss(model, batch, region_texts(tokenizer), where)
    loss.backward()
    assert {
        "patch_name",
        "patch_apart",
        "patch_box_pixels",
        *(f"region_{a}" for a in region_words("en")),
    } <= set(metrics)
    assert where.weight.grad[16:20].abs().sum() > 0, "boxes are learned"
    assert (where.weight.grad[20:].abs().sum(1) > 0).all(), "and every number of the codes"
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.vision_model.encoder.parameters())


def test_near_boxes_have_near_codes_and_a_linear_layer_reads_them():
    corners = torch.rand(400, 4)
    code = box_code(corners, 192)
    assert 0.8 < float(code.pow(2).mean()) < 1.2
    near, far = box_code(corners + 0.02, 192), box_code(corners.flip(0), 192)
    assert (code - near).pow(2).mean() < 0.05 * (code - far).pow(2).mean()
    weight = torch.linalg.lstsq(code, corners - corners.mean(0)).solution
    assert (code @ weight + corners.mean(0) - corners).abs().max() < 0.02
    torch.testing.assert_close(box_code(corners.view(20, 20, 4), 192), code.view(20, 20, 192))


def test_soft_slots_tell_each_box_and_no_other(tokenizer):
    ids = reading.TextIds(tokenizer)
    for seed, scene in enumerate(drawn_scenes(20)):
        slots = soft_slots(scene, ids, np.random.default_rng(seed))
        assert ((slots.boxed > 0).tolist()) == [False] * 2 + [True] * len(scene.pieces) + [False] * (
            5 - len(scene.pieces)
        )
        for number, piece in enumerate(scene.pieces):
            edges = [piece.x, piece.y, piece.x + piece.side, piece.y + piece.side]
            assert (slots.corners[2 + number] * 96).round().tolist() == edges
            named = piece.word or piece.thing.names["zh"]
            said = set(slots.words[2 + number][slots.weights[2 + number] > 0].tolist())
            english = {*ids(piece.thing.names["en"]), *ids(piece.word or "")}
            assert said & ({*ids(named)} | english), "the name is always told"


def test_an_embedded_slot_is_the_mixture_of_its_facts_words_and_boxes(tokenizer):
    """By hand, one slot at a time, without the batch's tricks."""
    ids, scene = reading.TextIds(tokenizer), drawn_scenes(1)[0]
    slots = soft_slots(scene, ids, np.random.default_rng(3))
    turn = reading.detail(scene, "en", np.random.default_rng(0))
    batch = reading.collate_text([reading.Asked([reading.IMAGE_ID] * 16, [turn], slots)], ids)
    model = backbones.new_llm(len(tokenizer))
    words = model.get_input_embeddings().weight
    found = reading.embed_text(model, batch)[0]
    size = words.pow(2).mean().sqrt()
    for number in range(16):
        expected = words[reading.IMAGE_ID].clone()  # the mark of every slot
        for f in range(7):
            fact = (words[slots.words[f]] * slots.weights[f][:, None]).sum(0)
            fact = fact + size * slots.boxed[f] * box_code(slots.corners[f], backbones.WIDTH)
            expected = expected + slots.mixing[number, f] * fact
        torch.testing.assert_close(found[int(batch["start"]) + number], expected, atol=1e-4, rtol=1e-3)
    assert set(batch["answer"][0].tolist()) == {0, 2}, "a description in detail is told from short answers"


def test_rows_told_in_words_are_asked_nothing_about_boxes(tokenizer, monkeypatch):
    monkeypatch.setattr(reading, "scene_pool", lambda *_, **__: drawn_scenes(50))
    ids = reading.TextIds(tokenizer)
    for step in range(4):
        batch = reading.reading_batch(ids, step, 32, 0, kinds=reading.KINDS)
        for line, soft in zip(batch["input_ids"], batch["soft"], strict=True):
            assert soft or "),(" not in tokenizer.decode(line), "no box stands in these descriptions"
    assert torch.equal(batch["answer"] > 0, batch["answer"].bool() & (batch["labels"] != -100))


def test_with_no_kinds_each_row_asks_for_a_description_alone(tokenizer, monkeypatch):
    monkeypatch.setattr(reading, "scene_pool", lambda *_, **__: drawn_scenes(50))
    batch = reading.reading_batch(reading.TextIds(tokenizer), 1, 16, 0, kinds=())
    assert set(batch["answer"].unique().tolist()) == {0, 2}, "no short answers"
    assert int(batch["turn"].max()) == 1
    said = [
        tokenizer.decode(line[kind == 2])
        for line, kind in zip(batch["input_ids"], batch["answer"], strict=True)
    ]
    assert all(text.strip().endswith("</s>") and len(text) > 5 for text in said)
    model = backbones.new_llm(len(tokenizer)).eval()
    loss, metrics = reading.reading_loss(model, batch)
    with torch.no_grad():
        logits = model(inputs_embeds=reading.embed_text(model, batch)).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), batch["labels"][:, 1:], reduction="none", ignore_index=-100
    )
    kind, told = batch["answer"][:, 1:], batch["labels"][:, 1:] != -100
    expected = losses[kind == 2].mean() + reading.GUIDE_WEIGHT * metrics["guidance"]
    if bool((told & (kind == 0)).any()):
        expected = expected + reading.TOLD_WEIGHT * losses[told & (kind == 0)].mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4, msg="descriptions alone count whole")


def test_asked_for_boxes_alone_each_row_asks_for_one_after_the_other(tokenizer, monkeypatch):
    monkeypatch.setattr(reading, "scene_pool", lambda *_, **__: drawn_scenes(50))
    ids = reading.TextIds(tokenizer)
    batch = reading.reading_batch(ids, 1, 16, 0, soft=1.0, turns=3, kinds=("ground",))
    assert batch["soft"].all() and batch["turn"].max(1).values.eq(3).all()
    for line, kind, turn, about in zip(
        *(batch[name] for name in ("input_ids", "answer", "turn", "about")), strict=True
    ):
        for number in (1, 2, 3):
            answer = (kind == 1) & (turn == number)
            assert len(boxes.boxes_in(tokenizer.decode(line[answer]), 1000, 1000)) == 1
            assert len(about[answer][:-1].unique()) == 1 and about[answer][0] > 0, (
                "all but the end is its box"
            )


def test_description_quality_reads_the_models_own_words(tokenizer, monkeypatch):
    """A model that says a right name, the same again and a wrong one, whatever the slots."""
    scene = moji.Scene(
        "x", "red", 0, (moji.Piece(3, "openmoji", 0, 0, 30), moji.Piece(9, "twemoji", 60, 60, 20))
    )
    monkeypatch.setattr(reading.moji, "scenes", lambda *_, **__: [scene, scene])
    names = [moji.concepts()[number].names for number in (3, 3, 7)]
    texts = {
        lang: (", a " if lang == "en" else "、").join(name[lang] for name in names) for lang in LANGUAGES
    }
    said = iter(texts[lang] for lang in LANGUAGES)
    model = backbones.new_llm(len(tokenizer)).eval()
    model.generate = lambda inputs_embeds, **_: torch.tensor([tokenizer(next(said))["input_ids"]] * 2)
    found = reading_scores.description_quality(model, tokenizer, scenes=2)
    for lang in LANGUAGES:
        assert found[f"{lang}/recall"] == 0.5 and found[f"{lang}/precision"] == 0.5
        assert found[f"{lang}/repeats"] == pytest.approx(1 / 3) and found[f"{lang}/exact"] == 0


def test_place_loss_is_zero_only_where_every_patch_tells_its_own_row_and_column():
    where = torch.nn.Linear(64, 16, bias=False)
    number = torch.arange(64)
    with torch.no_grad():
        where.weight.zero_()
        where.weight[number // 8, number] = where.weight[8 + number % 8, number] = 50.0
    patches = torch.cat([torch.zeros(1, 64), torch.eye(64)])[None]  # each patch holds its own number
    with torch.no_grad():
        assert float(place_loss(where, patches)) < 1e-6
        assert float(place_loss(where, patches.roll(1, 1))) > 1


def test_text_of_a_step_depends_on_seed_and_step_alone(tokenizer, monkeypatch):
    monkeypatch.setattr(reading, "scene_pool", _small_pool)
    first = reading.reading_batch(reading.TextIds(tokenizer), 3, 8, 0)
    again = reading.reading_batch(reading.TextIds(tokenizer), 3, 8, 0)
    other = reading.reading_batch(reading.TextIds(tokenizer), 4, 8, 0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["input_ids"], other["input_ids"])


def test_soft_slots_hold_facts_of_the_scene_alone(tokenizer):
    ids = reading.TextIds(tokenizer)
    for seed in range(20):
        scene = moji.scenes(1, "train", seed)[0]
        words, weights, mixing, *_ = soft_slots(scene, ids, np.random.default_rng(seed))
        count = 2 + len(scene.pieces)
        torch.testing.assert_close(mixing.sum(1), torch.ones(NUM_SLOTS))
        # Of the number of things a slot may be silent: seen by place, it belongs to none.
        assert (mixing[:, [0, *range(2, count)]].amax(0) > 0.01).all(), "such a fact could not be read"
        assert not mixing[:, count:].any() and not weights[count:].any()
        said = {ids(" " * (lang == "en") + wordings.COLOURS[lang][scene.background])[0] for lang in LANGUAGES}
        assert said & set(words[0].tolist())


def test_slots_by_place_tell_what_lies_there():
    big, small = moji.Piece(3, "openmoji", 0, 0, 36), moji.Piece(9, "twemoji", 72, 72, 20)
    scene = moji.Scene("x", "red", 0, (big, small))
    for seed in range(20):
        share = place_mixing(scene, 4, np.random.default_rng(seed)).reshape(4, 4, 4)
        np.testing.assert_allclose(share.sum(-1), 1)
        assert share[0, 0, 2] > share[3, 3, 2] == 0 and share[3, 3, 3] > share[0, 0, 3] == 0
        assert (share[:, :, 2] > 0).tolist() == [[True, True, False, False]] * 2 + [[False] * 4] * 2
        assert share[2, 1, 2:].sum() == 0 and share[2, 1, 0] > 0, "where nothing lies, the ground is seen"


def test_only_soft_rows_have_slots_in_place_of_words(tokenizer, monkeypatch):
    monkeypatch.setattr(reading, "scene_pool", _small_pool)
    batch = reading.reading_batch(reading.TextIds(tokenizer), 0, 16, 0)
    marks = (batch["input_ids"] == reading.IMAGE_ID).sum(1)
    assert torch.equal(marks, torch.where(batch["soft"], NUM_SLOTS, 0))
    assert (batch["labels"] != reading.IMAGE_ID).all()
