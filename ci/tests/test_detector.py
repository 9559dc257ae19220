"""The Grounded-SAM pipeline: real loading code over tiny random weights, and its arithmetic by hand."""

import random
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessorPil,
    ChineseCLIPModel,
    ChineseCLIPProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    SamConfig,
    SamImageProcessorPil,
    SamModel,
    SamProcessor,
    SwinConfig,
)

from zvl.data import detector, moji
from zvl.data.boxes import box_text, iou
from zvl.data.detections import Detection, named, recall_precision, spans_of, tidy
from zvl.data.limits import DEFAULT
from zvl.data.readers import Quarantine
from zvl.data.symbols import Symbols, Thing, can_be_told, parse_symbols, symbols_text

VOCABULARY = {"en": ["cat", "hot dog", "red bus", "Teddy bear."],
              "zh": {"猫": "cat", "热狗": "hot dog", "红色公交车": "red bus", "泰迪熊": "teddy bear"}}  # fmt: skip
KEEP_MOST = {"box_threshold": 0.3, "text_threshold": 0.1, "tag_threshold": 0.0}  # random weights see little


# --- tiny models, saved and loaded as real ones are ---


def bert_tokenizer(words):
    """Ids of special tokens are those of bert-base-uncased: Grounding DINO has them in its code."""
    vocabulary = [f"[unused{i}]" for i in range(1030)]
    marks = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    for index, word in marks.items():
        vocabulary[index] = word
    words = sorted(set(words) - set(marks.values()))
    assert len(words) < 800
    vocabulary[200 : 200 + len(words)] = words
    tokenizer = BertTokenizer(
        vocab={word: index for index, word in enumerate(vocabulary)}, model_max_length=64
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["[unused5]"]})
    return tokenizer


def save(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = {**small, "image_size": 32, "patch_size": 8}

    swin = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
    )
    dino = GroundingDinoConfig(
        backbone_config=swin, text_config=BertConfig(vocab_size=1030, **small), d_model=32, num_queries=20,
        encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
        decoder_attention_heads=2, max_text_len=64,
    )  # fmt: skip
    said = " ".join(concept.names["en"] for concept in moji.concepts())
    words = bert_tokenizer(
        sorted({*"bear bus cat dog hot red teddy [ ] sep".split(), *re.findall(r"\w+|[^\w\s]", said)})
    )
    pictures = GroundingDinoImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 160})
    save(root / "dino", GroundingDinoForObjectDetection(dino), GroundingDinoProcessor(pictures, words))

    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=48)
    text = {**small, "vocab_size": len(tokens), "max_position_embeddings": 48, "bos_token_id": len(tokens) - 2,
            "eos_token_id": len(tokens) - 1}  # fmt: skip
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    save(root / "clip-en", clip, CLIPProcessor(pictures, tokenizer))

    text = {**small, "vocab_size": 1030, "max_position_embeddings": 48}
    clip = ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    pictures = ChineseCLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    characters = sorted(set("".join(VOCABULARY["zh"]) + "一张的照片。"))
    save(root / "clip-zh", clip, ChineseCLIPProcessor(pictures, bert_tokenizer(characters)))

    sam = SamConfig(
        vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64,
                       "patch_size": 8, "output_channels": 8, "mlp_dim": 32, "window_size": 4,
                       "global_attn_indexes": [0], "num_pos_feats": 4},
        prompt_encoder_config={"hidden_size": 8, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 8, "mlp_dim": 16, "num_attention_heads": 2, "num_hidden_layers": 1,
                             "attention_downsample_rate": 2, "iou_head_hidden_dim": 8},
    )  # fmt: skip
    pictures = SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16}, mask_pad_size={"height": 16, "width": 16},
    )  # fmt: skip
    save(root / "sam", SamModel(sam), SamProcessor(pictures))
    return root


@pytest.fixture(scope="module")
def pipeline(folders):
    finder = detector.load_detector(folders / "dino")
    looker = detector.load_tagger(folders / "clip-en")
    asked = detector.askable(VOCABULARY["en"], finder)
    told = detector.told_names(looker, list(asked), detector.PHRASES["en"])
    return detector.Pipeline(
        looker, finder, detector.load_segmenter(folders / "sam"), asked, told, **KEEP_MOST
    )


def noise(rng, width, height):
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures of three sizes, mixed, by id."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(5)
    paths = {}
    for index, size in enumerate([(96, 96), (120, 64), (96, 96), (80, 130), (120, 64)]):
        paths[f"id-{index}"] = folder / f"{index}.png"
        noise(rng, *size).save(paths[f"id-{index}"])
    return paths


def run(folders, photos, language="en", segmenter=True, **more):
    vocabulary = more.pop("vocabulary", VOCABULARY[language])
    return list(
        detector.detect(
            photos, tagger=folders / f"clip-{language}", detector=folders / "dino",
            segmenter=folders / "sam" if segmenter else None, vocabulary=vocabulary, language=language,
            **KEEP_MOST, **more,
        )
    )  # fmt: skip


# --- the plumbing ---


@pytest.mark.parametrize("language, segmenter", [("en", True), ("zh", False)])
def test_what_is_found_are_symbols_that_a_teacher_can_be_shown(folders, photos, language, segmenter):
    quarantine = Quarantine()
    captions = {"id-0": ["one", "two"]}
    found = run(folders, photos, language, segmenter, captions=captions, quarantine=quarantine)
    assert {one.image_id for one in found} | {row[1] for row in quarantine.rows if row[2] == "things"} == set(
        photos
    )
    assert len(found) >= 3, "too little was found to say anything"
    for one in found:
        assert one.image == str(photos[one.image_id])
        assert (one.width, one.height) == Image.open(one.image).size
        assert one.captions == tuple(captions.get(one.image_id, ()))
        assert {thing.name for thing in one.things} <= set(VOCABULARY[language])
        assert all(can_be_told(thing.box, one.width, one.height) for thing in one.things)
        assert [thing.name for thing in parse_symbols(symbols_text(one)).things] == [
            t.name for t in one.things
        ]
    assert len({thing.name for one in found for thing in one.things}) > 1


@pytest.mark.parametrize("outlined", [False, True])
def test_what_is_found_in_a_picture_does_not_depend_on_its_neighbours_or_the_run(pipeline, photos, outlined):
    pictures = [Image.open(path).convert("RGB") for path in photos.values()]
    used = pipeline if outlined else replace(pipeline, segmenter=None)

    def find(*some):  # scores differ in the last bit
        return [[(one.name, one.box) for one in found] for found, _ in detector.find(some, used)]

    together = find(*pictures)
    assert sum(map(len, together)) > len(pictures)
    assert len({box for found in together for _, box in found}) > 2
    assert together == find(*pictures)
    assert together == [found for picture in pictures for found in find(picture)]
    assert together[::-1] == find(*pictures[::-1])
    if not outlined:
        for picture, found in zip(pictures, together, strict=True):
            with torch.no_grad():
                (raw,) = detector.ground([picture], detector.tag([picture], used), used)
            assert [(one.name, one.box) for one in tidy(raw, *picture.size)[0]] == found


def test_the_size_of_a_batch_changes_nothing(folders, photos):
    found = run(folders, photos, batch=1)
    assert found == run(folders, photos, batch=4)
    assert [one.image_id for one in found] == [
        name for name in photos if name in {one.image_id for one in found}
    ]


def test_processors_use_pillow_and_nothing_imports_torchvision(pipeline):
    for part in (pipeline.tagger, pipeline.detector, pipeline.segmenter):
        assert type(part.processor.image_processor).__name__.endswith("Pil")
        assert not part.model.training
    assert "torchvision" not in sys.modules and "timm" not in sys.modules


def test_a_picture_that_cannot_be_looked_at_is_put_aside_with_its_reason(folders, photos, tmp_path):
    rng = np.random.default_rng(0)
    noise(rng, 96, 96).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "truncated.png").write_bytes(whole[: len(whole) // 2])
    middle = whole.index(b"IDAT") + 4000
    (tmp_path / "damaged.png").write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    (tmp_path / "text.png").write_text("<svg/>")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "bomb.png")
    noise(rng, 3, 500).save(tmp_path / "sliver.png")
    noise(rng, 16, 400).save(tmp_path / "narrow.png")
    noise(rng, 8, 8).save(tmp_path / "tiny.png")
    bad = ["truncated", "damaged", "text", "bomb", "sliver", "narrow", "tiny", "missing"]
    images = {
        "first": photos["id-0"],
        **{name: tmp_path / f"{name}.png" for name in bad},
        "last": photos["id-2"],
    }
    quarantine = Quarantine()
    found = run(folders, images, batch=3, quarantine=quarantine)
    aside = {row: reason for _, row, field, reason in quarantine.rows if field == "image"}
    assert list(aside) == bad
    assert aside["bomb"] == f"over {DEFAULT.pixels} pixels"
    assert aside["missing"] == "cannot be opened (FileNotFoundError)"
    assert aside["sliver"] == aside["narrow"] == aside["tiny"] == "too small or too narrow"
    alone = run(folders, {"first": photos["id-0"], "last": photos["id-2"]})
    assert found == alone and found


def test_a_picture_in_which_nothing_is_found_is_counted(folders, photos):
    quarantine = Quarantine()
    settings = {**KEEP_MOST, "box_threshold": 1.0}
    part = {"tagger": folders / "clip-en", "detector": folders / "dino"}
    found = list(
        detector.detect(photos, **part, vocabulary=VOCABULARY["en"], quarantine=quarantine, **settings)
    )
    assert found == []
    assert quarantine.counts() == {"things: nothing found": len(photos)}


def test_no_tag_means_no_box_and_no_error(pipeline):
    picture = noise(np.random.default_rng(1), 96, 96)
    ((found, dropped),) = detector.find([picture], replace(pipeline, tag_threshold=1.1))
    assert found == [] and dropped == []
    assert detector.find([], pipeline) == []


def test_the_default_vocabulary_is_moji_in_either_language(folders, photos):
    found = run(folders, {"a": photos["id-0"]}, "zh", segmenter=False, vocabulary=None)
    names = {thing.name for one in found for thing in one.things}
    assert names and names <= {concept.names["zh"] for concept in moji.concepts()}


# --- each part against the stock way ---


def test_tags_are_those_of_the_stock_model(pipeline):
    rng = np.random.default_rng(2)
    pictures = [noise(rng, 96, 96) for _ in range(4)]
    names = list(pipeline.vocabulary)
    said = [detector.PHRASES["en"].format(name) for name in names]
    inputs = pipeline.tagger.processor(text=said, images=pictures, padding=True, return_tensors="pt")
    with torch.no_grad():
        likely = pipeline.tagger.model(**inputs).logits_per_image.softmax(-1)
        wanted = [[names[i] for i in row.argsort(descending=True)] for row in likely]
        assert detector.tag(pictures, pipeline) == wanted
        assert detector.tag(pictures, replace(pipeline, tags=2)) == [row[:2] for row in wanted]
        middle = float(likely[0].sort().values[1:3].mean())
        assert detector.tag(pictures[:1], replace(pipeline, tag_threshold=middle)) == [wanted[0][:2]]


def test_boxes_are_those_of_the_stock_processor(pipeline):
    picture = noise(np.random.default_rng(3), 120, 64)
    tags = ["cat", "Teddy bear.", "hot dog"]
    processor, model = pipeline.detector.processor, pipeline.detector.model
    inputs = processor(images=picture, text="cat. teddy bear. hot dog.", return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
        ((*found,),) = detector.ground(
            [picture], [tags], replace(pipeline, box_threshold=0, text_threshold=0)
        )
    stock = processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=0, target_sizes=[(64, 120)]
    )[0]["boxes"]
    assert len(found) == len(stock) == 20
    assert np.allclose([one.corners for one in found], stock.numpy(), atol=1e-3)
    # [CLS] cat . teddy bear . hot dog . [SEP]
    likely, tokens = outputs.logits[0].sigmoid(), {"cat": [1], "Teddy bear.": [3, 4], "hot dog": [6, 7]}
    for row, one in zip(likely, found, strict=True):
        means = {name: float(row[at].mean()) for name, at in tokens.items()}
        assert one.name == max(means, key=means.get)
        assert one.score == pytest.approx(float(row[tokens[one.name]].max()), abs=1e-5)


def test_outlines_are_the_extents_of_the_stock_masks(pipeline):
    rng = np.random.default_rng(4)
    pictures = [noise(rng, 120, 64), noise(rng, 120, 64)]
    asked = [[[10.0, 5.0, 60.0, 50.0], [30.0, 20.0, 110.0, 60.0]], [[0.0, 0.0, 40.0, 64.0]]]
    found = [[Detection("cat", 0.5, tuple(corners)) for corners in row] for row in asked]
    processor, model = pipeline.segmenter.processor, pipeline.segmenter.model
    with torch.no_grad():
        outlined = detector.outline(pictures, found, pipeline.segmenter)
        for picture, corners, row in zip(pictures, asked, outlined, strict=True):
            inputs = processor(images=picture, input_boxes=[corners], return_tensors="pt")
            sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
            outputs = model(**{name: value.float() for name, value in inputs.items()}, multimask_output=False)
            (masks,) = processor.image_processor.post_process_masks(outputs.pred_masks, *sizes)
            for mask, before, one in zip(masks[:, 0].numpy(), corners, row, strict=True):
                down, across = np.where(mask)
                wanted = (across.min(), down.min(), across.max() + 1, down.max() + 1) if len(down) else before
                assert one.corners == tuple(wanted)
    assert any(one.corners != tuple(c) for row, cs in zip(outlined, asked, strict=True)
               for one, c in zip(row, cs, strict=True)), "no mask said anything"  # fmt: skip


def test_a_mask_reaches_from_its_first_pixel_to_its_last():
    mask = torch.zeros(6, 9, dtype=torch.bool)
    assert detector._extent(mask) is None
    mask[2, 3] = mask[4, 7] = True
    assert detector._extent(mask) == (3, 2, 8, 5)


def test_a_name_that_looks_like_a_control_token_stays_text(pipeline):
    with pytest.raises(ValueError, match="cannot read 1 names"):
        detector.askable(["[unused5]"], pipeline.detector)  # no letters of it are in the tiny vocabulary
    picture = noise(np.random.default_rng(6), 96, 96)
    told = []
    for words in ("[unused5]", "[ nothing ]"):  # both are read as an unknown word in brackets
        vocabulary = {"odd": words, "cat": "cat"}
        with torch.no_grad():
            (found,) = detector.ground([picture], [["odd", "cat"]], replace(pipeline, vocabulary=vocabulary))
        told.append(found)
    assert told[0] == told[1] and told[0]
    # CLIP reads a text off at its first end: what stands behind one would not count.
    names = ["a<|endoftext|>cat", "a<|endoftext|>dog"]
    first, second = detector.told_names(pipeline.tagger, names, detector.PHRASES["en"])
    assert not torch.allclose(first, second, atol=1e-4)


def test_a_vocabulary_that_the_detector_cannot_read_is_refused(folders, photos, pipeline):
    assert list(pipeline.vocabulary.values()) == ["cat", "hot dog", "red bus", "teddy bear"]
    for names, said in ((["cat", "猫"], "1 names, such as '猫'"), (["?. "], "1 names"), ([], "no names")):
        with pytest.raises(ValueError, match=said):
            detector.askable(names, pipeline.detector)
    with pytest.raises(ValueError, match="language 'fr' is not one of en, zh"):
        list(detector.detect(photos, tagger=folders / "clip-en", detector=folders / "dino", language="fr"))


# --- the arithmetic, by hand ---


def test_a_box_has_the_name_whose_tokens_are_likeliest():
    names, spans = ["cat", "hot dog"], spans_of([101, 7, 1012, 8, 9, 1012, 102, 0], 1012)
    assert spans == [slice(1, 2), slice(3, 5)]
    likely = torch.tensor([
        # [CLS] cat   .    hot  dog   .   [SEP]
        [0.99, 0.90, 0.0, 0.10, 0.10, 0.0, 0.99],  # cat
        [0.00, 0.50, 0.9, 0.20, 0.90, 0.0, 0.00],  # hot dog: 0.55 on average, its best token 0.90
        [0.99, 0.34, 0.9, 0.10, 0.10, 0.9, 0.99],  # under the threshold of boxes, whatever the marks say
        [0.00, 0.10, 0.0, 0.43, 0.05, 0.0, 0.00],  # "hot" alone: 0.24 is under the threshold of text
        [0.00, 0.10, 0.0, 0.45, 0.07, 0.0, 0.00],  # 0.26 is over it
    ])  # fmt: skip
    corners = torch.arange(20.0).reshape(5, 4)
    found = named(torch.logit(likely), corners, spans, names, 0.35, 0.25)
    assert [(one.name, round(one.score, 4), one.corners) for one in found] == [
        ("cat", 0.9, (0, 1, 2, 3)), ("hot dog", 0.9, (4, 5, 6, 7)), ("hot dog", 0.45, (16, 17, 18, 19))
    ]  # fmt: skip
    assert named(torch.logit(likely), corners, [], [], 0.35, 0.25) == []


def test_a_phrase_that_was_cut_off_is_no_tag():
    assert spans_of([101, 7, 1012, 8, 102], 1012) == [slice(1, 2)]


def test_tidy_clips_drops_and_keeps_the_better_of_two():
    nan, inf = float("nan"), float("inf")
    kept, dropped = tidy(
        [
            Detection("cat", 0.5, (10.0, 10.0, 30.0, 30.0)),
            Detection("cat", 0.9, (10.4, 9.6, 30.4, 31.4)),  # (10, 10, 30, 31): 20/21 of one another
            Detection("dog", 0.4, (10.0, 10.0, 30.0, 30.0)),  # the same place by another name
            Detection("cat", 0.6, (14.0, 10.0, 34.0, 30.0)),  # 16/24 of the first
            Detection("bus", 0.7, (-20.0, 20.0, 300.0, 70.0)),  # the whole width, the lower part
            Detection("bus", 0.8, (-20.0, 0.0, -1.0, 20.0)),  # beside the picture
            Detection("bus", 0.3, (5.0, 5.0, 5.3, 20.0)),  # less than a pixel
            Detection("bus", 0.3, (20.0, 5.0, 10.0, 20.0)),  # turned round
            Detection("bus", 0.2, (nan, 0.0, 10.0, 10.0)),
            Detection("bus", 0.2, (0.0, 0.0, inf, 10.0)),
        ],
        100,
        50,
    )
    assert [(one.name, one.box) for one in kept] == [
        ("cat", (10, 10, 20, 21)), ("bus", (0, 20, 100, 30)), ("cat", (14, 10, 20, 20)), ("dog", (10, 10, 20, 20))
    ]  # fmt: skip
    assert sorted(dropped) == ["found twice"] + 3 * ["no area within the picture"] + 2 * ["not finite"]


@pytest.mark.parametrize("seed", range(3))
def test_what_tidy_keeps_can_be_told_and_nothing_is_lost(seed):
    rng = random.Random(seed)
    for _ in range(200):
        width, height = rng.randint(16, 5000), rng.randint(16, 5000)
        raw = [
            Detection(rng.choice("ab"), rng.random(), tuple(rng.uniform(-0.5, 1.5) * v for v in 2 * (width, height)))
            for _ in range(rng.randint(0, 12))
        ]  # fmt: skip
        kept, dropped = tidy(raw, width, height)
        assert len(kept) + len(dropped) == len(raw)
        assert all(can_be_told(one.box, width, height) and box_text(one.box, width, height) for one in kept)
        assert all(a.name != b.name or iou(a.box, b.box) <= 0.8 for a in kept for b in kept if a is not b)
        assert [one.score for one in kept] == sorted((one.score for one in kept), reverse=True)
        assert tidy(kept, width, height) == (kept, [])


# --- judging a detector ---


def scene_symbols(count, seed, language="en"):
    result = []
    for scene in moji.scenes(count, "train", seed):
        things = tuple(Thing(piece.thing.names[language], piece.box) for piece in scene.pieces)
        result.append(Symbols(scene.id, "", moji.SCENE_SIZE, moji.SCENE_SIZE, (), things, language))
    return result


def symbols(image_id, *things):
    return Symbols(image_id, "", 100.0, 100.0, (), tuple(Thing(name, box) for name, box in things), "en")


def test_recall_and_precision_by_hand():
    truth = [
        symbols("1", ("cat", (0, 0, 10, 10)), ("cat", (4, 0, 10, 10)), ("dog", (50, 50, 20, 20))),
        symbols("2", ("bus", (0, 0, 40, 40))),
    ]
    found = [
        # The first overlaps both cats, 9/11 and 7/13; the second only the first cat, 8/12.
        symbols("1", ("cat", (1, 0, 10, 10)), ("cat", (0, 2, 10, 10)), ("bird", (50, 50, 20, 20))),
        symbols("3", ("bus", (0, 0, 40, 40))),  # another picture
    ]
    # Best first: the pair of 9/11 leaves nothing for the second.
    assert recall_precision(found, truth) == (1 / 4, 1 / 4)
    found[0] = replace(found[0], things=(*found[0].things, Thing("cat", (4, 0, 10, 10))))
    assert recall_precision(found, truth) == (2 / 4, 2 / 5)
    assert recall_precision(found, truth, iou=0.9) == (1 / 4, 1 / 5)
    half = [symbols("1", ("cat", (0, 0, 10, 5)))]
    assert recall_precision(half, [symbols("1", ("cat", (0, 0, 10, 10)))]) == (1.0, 1.0), "0.5 is enough"
    recall, precision = recall_precision([], truth)
    assert recall == 0.0 and np.isnan(precision)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_oracle_finds_all_and_jitter_costs_what_it_should(language):
    truth = scene_symbols(60, seed=11, language=language)
    assert recall_precision(truth, truth) == (1.0, 1.0)

    def moved(one, share, rng, chance=1.0):
        """Boxes moved sideways by a share of their side: overlap (1 - share) / (1 + share)."""
        things = []
        for thing in one.things:
            x, y, w, h = thing.box
            things.append(replace(thing, box=(x + share * w * (rng.random() < chance), y, w, h)))
        return replace(one, things=tuple(things))

    rng = random.Random(3)
    assert recall_precision([moved(one, 0.3, rng) for one in truth], truth) == (1.0, 1.0)  # 0.54
    assert recall_precision([moved(one, 0.4, rng) for one in truth], truth) == (0.0, 0.0)  # 0.43
    some = [moved(one, 0.4, rng, chance=0.25) for one in truth]
    things, true = ([thing for one in side for thing in one.things] for side in (some, truth))
    left = sum(a == b for a, b in zip(things, true, strict=True)) / len(true)
    assert 0.6 < left < 0.9
    assert recall_precision(some, truth) == (left, left)
    # What is not found costs recall alone, what is made up precision alone.
    fewer = [replace(one, things=one.things[:-1]) for one in truth]
    recall, precision = recall_precision(fewer, truth)
    assert precision == 1.0 and recall == pytest.approx(1 - len(truth) / len(true))
    more = [replace(one, things=(*one.things, Thing("unicorn", (0, 0, 9, 9)))) for one in truth]
    recall, precision = recall_precision(more, truth)
    assert recall == 1.0 and precision == pytest.approx(len(true) / (len(true) + len(truth)))
