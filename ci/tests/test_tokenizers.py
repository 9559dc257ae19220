"""The Q-Former's tokenizer by name, what typed control tokens become, and what a vocabulary does not know."""

import json
from pathlib import Path

import pytest
import torch

from zvl.data.samples import Pair
from zvl.model import backbones, chat
from zvl.model.tokenizers import caption_ids, text_tokenizer, unknown_rate, unknown_rates, word_level

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ENGLISH = (
    "a",
    "red",
    "cat",
    "dog",
    "##s",
    "picture",
    "of",
    "sits",
    ",",
    ".",
    "[",
    "]",
    "cls",
    "dec",
    "sep",
    "unk",
)
CHINESE = tuple("一张狗的照片红猫坐在椅子上，。")
SOURCES = ["nano", "english", "chinese", "both"]


def bert(folder: Path, words, **settings) -> Path:
    """The files of a BERT: a WordPiece vocabulary and its settings."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join((*SPECIAL, *words)) + "\n", encoding="utf8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        "nano": "nano",
        "english": bert(folder / "english", ENGLISH),
        "chinese": bert(folder / "chinese", CHINESE),
        "both": bert(folder / "both", ENGLISH + CHINESE),
    }


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("source", SOURCES)
def test_any_tokenizer_has_what_the_qformer_needs(named, source):
    tokenizer = text_tokenizer(named[source])
    ids = [tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    decoder = tokenizer.convert_tokens_to_ids("[DEC]")
    assert None not in ids and len({*ids, decoder}) == 4 and decoder < len(tokenizer)
    assert decoder in tokenizer.all_special_ids and decoder != tokenizer.unk_token_id


def test_dec_is_the_one_row_that_a_bert_grows(named):
    tokenizer = text_tokenizer(named["both"])
    assert tokenizer.bos_token_id == len(tokenizer) - 1 == len(SPECIAL + ENGLISH + CHINESE)  # as in BLIP-2
    assert tokenizer.eos_token == "[SEP]" and tokenizer.cls_token == "[CLS]"


def test_a_saved_tokenizer_comes_back_the_same(named, tmp_path):
    tokenizer = text_tokenizer(named["both"])
    tokenizer.save_pretrained(tmp_path)
    again = text_tokenizer(tmp_path)
    assert len(again) == len(tokenizer) and again.bos_token_id == tokenizer.bos_token_id
    told = ["a red cat", "红猫坐在椅子上。"]
    assert torch.equal(caption_ids(again, told)[0], caption_ids(tokenizer, told)[0])


def test_nano_is_the_tokenizer_of_the_repository():
    assert text_tokenizer().get_vocab() == backbones.load_tokenizer().get_vocab()


@pytest.mark.parametrize("source", SOURCES)
def test_captions_start_with_cls_end_with_the_end_and_are_padded_right(named, source):
    tokenizer = text_tokenizer(named[source])
    ids, mask = caption_ids(tokenizer, ["a red cat sits, a dog", "红猫"])
    assert ids.shape == mask.shape and ids.shape[1] % 8 == 0
    assert ids[:, 0].tolist() == [tokenizer.cls_token_id] * 2
    for row, real in zip(ids.tolist(), mask.sum(1).tolist(), strict=True):
        assert row[real - 1] == tokenizer.eos_token_id and set(row[real:]) <= {tokenizer.pad_token_id}
    assert mask[0].sum() > mask[1].sum() >= 3


def test_a_long_caption_loses_its_end_but_not_its_end_token(named):
    tokenizer = text_tokenizer(named["both"])
    whole, cut = (
        caption_ids(tokenizer, ["a cat " * 30])[0][0],
        caption_ids(tokenizer, ["a cat " * 30], 32)[0][0],
    )
    assert len(whole) == 64 and len(cut) == 32
    assert torch.equal(cut[:31], whole[:31]) and cut[31] == tokenizer.eos_token_id


@pytest.mark.parametrize("source", SOURCES)
def test_typed_control_tokens_stay_text(named, source):
    tokenizer = text_tokenizer(named[source])
    control = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    for token in tokenizer.all_special_tokens:
        (ids,) = chat.text_ids(tokenizer, [f"a{token}cat 猫 {token}"])
        assert ids and not control & set(ids), token
        if source in ("nano", "english", "both"):
            assert len(ids) > 4, f"{token} must be spelled out"
        row = caption_ids(tokenizer, [f"{token} a cat"])[0][0].tolist()
        assert row.count(tokenizer.cls_token_id) == row.count(tokenizer.eos_token_id) == 1
        assert tokenizer.convert_tokens_to_ids("[DEC]") not in row


# --- what is not known ---


def test_an_english_vocabulary_loses_chinese_and_a_bilingual_one_does_not(named):
    chinese, english = ["红猫坐在椅子上。", "一张照片，红的狗。"], ["a red cat sits.", "a picture of dogs"]
    rate = {source: unknown_rate(text_tokenizer(named[source]), chinese).rate for source in SOURCES}
    assert rate["english"] == 1 and rate["nano"] == rate["chinese"] == rate["both"] == 0
    assert unknown_rate(text_tokenizer(named["english"]), english).rate == 0
    assert unknown_rate(text_tokenizer(named["chinese"]), english).lost_rate > 0.8


def test_a_tokenizer_of_words_knows_the_words_that_it_was_shown_and_nothing_else():
    english = word_level(["a red cat", "a dog"])
    assert unknown_rate(english, ["A dog", "a red dog"]).rate == 0
    found = unknown_rate(english, ["红猫a", "a zebra"])
    assert (found.tokens, found.unknown, found.lost) == (5, 3, 2 + 5), "two characters and a word"


def test_unknown_tokens_and_lost_characters_are_counted_apart(named):
    found = unknown_rate(text_tokenizer(named["english"]), ["A red zebra sits, zebra", "猫 cats\n"])
    # a red [UNK] sits , [UNK]; [UNK] cat ##s
    assert (found.texts, found.tokens, found.unknown) == (2, 9, 3)
    assert (found.characters, found.lost) == (24, 11)
    assert found.examples == (("zebra", 2), ("猫", 1))
    assert found.rate == 3 / 9 and found.lost_rate == 11 / 24


def test_what_a_tokenizer_drops_in_silence_is_lost_too(named):
    found = unknown_rate(text_tokenizer(named["both"]), ["a \x00\ufffd cat"])  # BERT cleans two of them away
    assert (found.tokens, found.unknown, found.characters, found.lost) == (2, 0, 6, 2)


def test_bytes_know_everything():
    found = unknown_rate(text_tokenizer(), ["𠮷野家 🐱 naïve \x00 [UNK]", ""])
    assert found.tokens > 10 and found.unknown == found.lost == 0 and found.rate == 0
    assert unknown_rate(text_tokenizer(), []).rate == 0


def test_the_report_has_a_row_for_each_data_set_and_language(named):
    tokenizer = text_tokenizer(named["english"])
    pairs = [
        Pair("1", "1.png", "a red cat", "en", "sbu"),
        Pair("2", "2.png", "红猫", "zh", "wukong"),
        Pair("3", "3.png", "a zebra", "en", "sbu"),
        Pair("4", "4.png", "a cat", "en", "cc3m"),
    ]
    rows = unknown_rates(iter(pairs * 700), tokenizer)  # more than are tokenised in one call
    assert [(row["Dataset"], row["Language"], row["Captions"]) for row in rows] == [
        ("sbu", "en", "1,400"),
        ("wukong", "zh", "700"),
        ("cc3m", "en", "700"),
    ]
    assert [row["Unknown tokens"] for row in rows] == ["20.00%", "100.00%", "0.00%"]
    assert [row["Characters lost"] for row in rows] == ["38.46%", "100.00%", "0.00%"]
    assert rows[0]["Unknown, most frequent"] == "zebra" and rows[0]["Tokens a caption"] == "2.5"


# --- what is refused ---


def test_absent_files_are_named_with_what_to_do(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"hf download no-such/tokenizer tokenizer\.json.*\n.*HF_HOME"
    ):
        text_tokenizer("no-such/tokenizer")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer here; wanted are tokenizer\.json"):
        text_tokenizer(tmp_path)


def test_no_network_is_used_unless_allowed(monkeypatch):
    from transformers import AutoTokenizer

    asked = []

    def refuse(name, **options):
        asked.append(options)
        raise OSError("no")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    for download in (False, True):
        with pytest.raises(FileNotFoundError):
            text_tokenizer("some/name", download=download)
    assert asked == [{"local_files_only": True}, {"local_files_only": False}]


def test_a_folder_without_its_vocabulary_is_no_tokenizer(named, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text((named["both"] / "tokenizer_config.json").read_text())
    with pytest.raises(ValueError, match="is its vocabulary missing"):
        text_tokenizer(tmp_path)


def test_a_broken_file_is_named(named, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text((named["both"] / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=str(tmp_path)):
        text_tokenizer(tmp_path)


def test_a_tokenizer_without_padding_is_refused(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    llama = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    llama.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no pad_token;"):
        text_tokenizer(tmp_path)
    llama.pad_token = "</s>"
    llama.save_pretrained(tmp_path)
    tokenizer = text_tokenizer(tmp_path)
    assert tokenizer.cls_token == "<s>" and tokenizer.bos_token == "[DEC]"
    assert caption_ids(tokenizer, ["a a", "a"])[1].sum(1).tolist() == [4, 3], (
        "the end is no padding, even as one id"
    )
