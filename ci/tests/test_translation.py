"""Translation: rows come back in their own format, nothing is lost in silence, and planted mistakes are found."""

import json
import os
import random
import re
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from zvl.data import moji, questions, wordings
from zvl.data.ledger import Ledger
from zvl.data.numerals import chinese_numbers, digit_numbers, english_numbers
from zvl.data.prompting import kind_of
from zvl.data.readers import Quarantine, read_gqa, read_llava, read_vqav2
from zvl.data.samples import LANGUAGES, Turn
from zvl.data.symbolic_teacher import SymbolicTeacher
from zvl.data.teacher import Answer, Dialogue, ask
from zvl.data.translation import (
    check_dialogue,
    translate_gqa,
    translate_llava,
    translate_m3it,
    translate_vqav2,
    translated,
)
from zvl.data.translation_checks import (
    CHECKS,
    length_ratio,
    lost,
    number_mismatch,
    survivors,
    untranslated,
)
from zvl.data.world import WorldConfig, write_world

# English | Chinese, of the kind that LLaVA's conversations have; no check may complain.
FREE = """
There are two people in the image, one standing and the other sitting.|图中有两个人，一个站着，另一个坐着。
The clock on the tower shows the time as 10:35 am.|塔楼上的钟显示时间是上午10:35。
He might be attending a wedding, a business meeting, or a graduation.|他可能正在参加婚礼、商务会议或毕业典礼。
The second bus from the left is number 42.|左起第二辆公交车是42路。
No one is sitting on the bench.|长椅上没有人坐着。
The tricycle stands at the crossroads.|三轮车停在十字路口。
Choose the right answer: (A) red (B) blue (C) green.|请选择正确答案：(A) 红色 (B) 蓝色 (C) 绿色。
The answer is B.|答案是B。
She is eating a sandwich, and four-leaf clovers decorate her dress.|她正在吃三明治，裙子上点缀着四叶草。
More than 1,000 people attended the event in New York in 1998.|1998年，有1000多人参加了在纽约举行的活动。
About 5 million tourists visit the place every year.|每年约有500万名游客到访此地。
They sit on either side of the table.|他们坐在桌子两边。
The building has twenty-one floors.|这栋楼有二十一层。
He bought a dozen eggs and half a watermelon.|他买了十二个鸡蛋和半个西瓜。
The man wears a Nike cap and holds an iPhone.|男子戴着Nike帽子，手里拿着iPhone。
The sign reads "STOP" in white letters.|路牌上用白色字母写着“STOP”。
Wait a second before you cross.|过马路前稍等一下。
It is March 3, and the third runner is tired.|今天是3月3日，第三名跑步者很累。
The cat is very cute, and its eyes are green.|这只猫十分可爱，眼睛是绿色的。
Around the plate there are several forks.|盘子四周有几把叉子。
The U.S. flag hangs there at 5 P.M.|下午5点挂着美国国旗。
Hundreds of birds are flying.|数百只鸟在飞翔。
One of them may be over thirty years old.|他们中有一位可能三十多岁了。
First, wash the vegetables. Second, boil them for 10 minutes.|首先把蔬菜洗净，其次煮10分钟。
hippopotamus|河马
no|否
It has been there for two or three weeks.|它在那里已经两三周了。
Q: What is it? A: It is a cat.|问：它是什么？答：它是一只猫。
Two-thirds of the pizza is left.|披萨还剩三分之二。
"""


def parallel(seed, count):
    """(English, Chinese) of the same scenes: captions, descriptions with and without boxes, questions, answers."""
    rng = np.random.default_rng(seed)
    drawn = moji.scenes(count // 2, "train", seed, 2, framed=0.4, signs=0.3)
    drawn += moji.scenes(count // 2, "test", seed, 2, framed=0.4, signs=0.3)
    found = []
    for scene in drawn:
        split, luck = ("train", "test")[int(rng.integers(2))], int(rng.integers(2**31))

        def told(language, scene=scene, split=split, luck=luck):
            """The same draws in both languages: the k-th wordings of a kind mean the same."""
            yield wordings.caption(scene, language, split, luck % 5, np.random.default_rng(luck))
            yield wordings.description(scene, language, np.random.default_rng(luck))
            yield questions.grounded(scene, language, split, np.random.default_rng(luck)).answer
            for piece in scene.pieces:
                yield questions.ground(
                    questions.expressions(scene, piece, language)[0],
                    piece,
                    language,
                    split,
                    np.random.default_rng(luck),
                ).question
            asked = questions.questions(
                scene, language, split, np.random.default_rng(luck), questions.QUESTION_TYPES
            )
            asked += questions.compare_pictures(scene, drawn[0], language, split, np.random.default_rng(luck))
            for question in asked:
                yield question.question
                if question.kind != "read":  # a word read from a sign is not quoted
                    yield question.answer

        found += zip(told("en"), told("zh"), strict=True)
    return found


SEED = int(os.environ.get("ZVL_TEST_SEED", "7"))  # any will do
GOOD = parallel(SEED, count=200)


def score(check, good, bad):
    """(recall, precision where half of the rows are bad, share of the good that is flagged)."""
    caught = sum(bool(check(*pair)) for pair in bad)
    wrong = sum(bool(check(*pair)) for pair in good)
    recall, flagged = caught / len(bad), wrong / len(good)
    return recall, recall / max(recall + flagged, 1e-9), flagged


def assert_scores(check, good, bad):
    recall, precision, flagged = score(check, good, bad)
    missed = [pair for pair in bad if not check(*pair)]
    assert min(len(good), len(bad)) >= 500
    assert recall > 0.95, missed[:5]
    assert precision > 0.95 and flagged <= 0.01, [pair for pair in good if check(*pair)][:5]


def test_good_translations_pass_all_checks():
    flagged = [(pair, reason) for pair in GOOD for check in CHECKS if (reason := check(*pair))]
    assert len(GOOD) >= 500
    assert len(flagged) <= 0.01 * len(GOOD), flagged[:5]


@pytest.mark.parametrize("line", FREE.strip().split("\n"))
def test_free_translations_pass_all_checks(line):
    source, target = line.split("|")
    assert {check.__name__: reason for check in CHECKS if (reason := check(source, target))} == {}


HAN = "零一两三四五"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven")


def counted(rng):
    """Good pairs that tell a number, in words and in digits."""
    pairs = []
    for scene in moji.scenes(520, "train", rng.randrange(10**6), 2):
        luck = rng.randrange(10**6)
        english = wordings.caption(scene, "en", "train", 4, np.random.default_rng(luck))
        chinese = wordings.caption(scene, "zh", "train", 4, np.random.default_rng(luck))
        if rng.random() < 0.5:
            number = len(scene.pieces)
            english = english.replace(WORDS[number], str(number), 1)
            if rng.random() < 0.5:
                chinese = chinese.replace(f"{HAN[number]}个", f"{number}个", 1)
        pairs.append((english, chinese))
    return pairs


def test_number_mismatch_finds_planted_numbers():
    rng = random.Random(SEED)
    good = counted(rng)

    def plant(source, target):
        number = re.search(r"([1-5]|[一两三四五])个", target)
        other = rng.choice(
            [n for n in range(2, 8) if n != (HAN + "").find(number[1]) and str(n) != number[1]]
        )
        said = rng.choice((str(other), "零一两三四五六七"[other], f"{other}0", "", "九十"))
        return source, target.replace(number[0], said + "个" if said else "", 1)

    assert_scores(number_mismatch, good + GOOD, [plant(*pair) for pair in good])


def test_untranslated_finds_planted_english():
    rng = random.Random(SEED)
    names = {c.names["zh"]: c.names["en"] for c in moji.concepts()}
    known = re.compile(
        "|".join(sorted((re.escape(name) for name in names if len(name) > 1), key=len, reverse=True))
    )

    def plant(source, target):
        words, way = source.split(), rng.randrange(4)
        found = [m for m in known.finditer(target) if f"“{m[0]}" not in target]
        if way == 0 and found:
            name = rng.choice(found)
            return source, target[: name.start()] + names[name[0]] + target[name.end() :]
        if way == 1:
            return source, source
        cut = rng.randrange(len(words))
        span = " ".join(words[cut : cut + rng.randint(2, 4)])
        place = rng.choice((0, len(target)))
        return source, f"{target[:place]}{span}{target[place:]}"

    spoken = [pair for pair in GOOD if len(pair[0].split()) > 4 and "(" not in pair[0] and '"' not in pair[0]]
    bad = [plant(*pair) for pair in spoken]
    # a span of nothing but short words ("is it") is no mistake that this check can see
    bad = [pair for pair in bad if re.search(r"[A-Za-z][a-z]{2}", pair[1])]
    assert_scores(untranslated, GOOD, bad)


def test_length_ratio_finds_planted_cuts_and_repetitions():
    rng = random.Random(SEED)
    long = [pair for pair in GOOD if len(pair[0]) > 45 and "(" not in pair[0]]

    def plant(source, target):
        return source, target[: len(target) // 5] if rng.random() < 0.5 else target * 3

    assert_scores(length_ratio, GOOD, [plant(*pair) for pair in long])


def boxes(rng):
    while True:
        left, top = rng.randrange(500), rng.randrange(500)
        yield f"({left},{top}),({left + rng.randrange(1, 499)},{top + rng.randrange(1, 499)})"


def test_lost_finds_planted_losses():
    rng = random.Random(SEED)
    boxed = [
        (f"{a} {box}", f"{b} {box}") for (a, b), box in zip(rng.sample(GOOD, 700), boxes(rng), strict=False)
    ]

    def marked(source, target):
        return f"<image>\n{source} (A) yes (B) no", f"<image>\n{target} (A) 有 (B) 没有"

    good = [marked(*pair) for pair in boxed]

    def plant(source, target):
        box = rng.choice(re.findall(r"\(\d+,\d+\),\(\d+,\d+\)", target))
        change = rng.choice((
            lambda: target.replace(box, "", 1),
            lambda: target.replace(box, box.replace("(", "（").replace(",", "，").replace(")", "）"), 1),
            lambda: target.replace(box, re.sub(r"\d+", lambda m: str((int(m[0]) + 7) % 1000), box, count=1), 1),
            lambda: target + box,
            lambda: target.replace("<image>", rng.choice(("", "<图片>", "图片", "＜image＞"))),
            lambda: target.replace("(B)", rng.choice(("", "(C)", "(乙)"))),
            lambda: target.replace("(A) 有 (B) 没有", "甲有，乙没有"),
        ))  # fmt: skip
        return source, change()

    assert_scores(lost, good + GOOD, [plant(*pair) for pair in good])


def test_digits_stay_digits_but_words_may_become_them():
    assert lost("There are 3 dogs.", "有三只狗。") == "a number is lost"
    assert lost("There are three dogs.", "有3只狗。") == ""
    assert lost("There are three dogs.", "有4只狗。") == "a number is added"
    assert number_mismatch("There are 3 dogs.", "有三只狗。") == ""
    assert number_mismatch("There is one dog.", "有两只狗。") == "a number is not in the source"


def test_an_article_is_no_choice():
    assert survivors("A dog. A cat or B.") == {("choice letter", "B"): 1}
    assert survivors("A. red B. blue, A or B") == {("choice letter", "A"): 2, ("choice letter", "B"): 2}


def test_numerals_of_both_languages_agree():
    """Every number from 0 to 99,999 that the test draws, against numerals written digit by digit."""
    rng = random.Random(SEED)
    small = WORDS + tuple(
        "eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
    )
    tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()

    def english(n):
        if n < 20:
            return small[n]
        if n < 100:
            return tens[n // 10 - 2] + (f"-{small[n % 10]}" if n % 10 else "")
        for unit, name in ((1000, "thousand"), (100, "hundred")):
            if n >= unit:
                return f"{english(n // unit)} {name}" + (f" and {english(n % unit)}" if n % unit else "")

    def chinese(n):
        text = "".join(
            "零一二三四五六七八九"[int(d)] + ("", "十", "百", "千", "万")[len(str(n)) - 1 - i] * (d != "0")
            for i, d in enumerate(str(n))
        )
        return re.sub("零+", "零", text).rstrip("零")

    for number in [*range(2, 130), *(rng.randrange(130, 100_000) for _ in range(300))]:
        assert english_numbers(english(number)).sure == {number}, english(number)
        assert chinese_numbers(chinese(number) + "个").sure == {number}, chinese(number)
        assert digit_numbers(f"{number:,} dogs") == digit_numbers(f"{number}只狗") == [number]


# --- rows ---


def said(texts):
    """A teacher's `ask` with a fixed table, that leaves alone what it does not have."""

    def answer(requests):
        told = []
        for request in requests:
            assert kind_of(request.messages)[0] == "translation"
            dialogue = Dialogue.model_validate_json(request.messages[-1]["content"])
            for turn in dialogue.turns:
                turn.instruction = texts.get(turn.instruction, turn.instruction)
                turn.response = texts.get(turn.response, turn.response)
            told.append(Answer(request.id, dialogue, "", ""))
        return told

    return answer


TABLE = {
    "How many dogs?": "有几只狗？", "Is it big?": "它大吗？", "Where is it?": "它在哪里？", "yes": "大",
    "large": "大的",     "Yes, it is big.": "是的，它很大。", "Who is there?": "谁在那里？", "a cat": "猫",
    "Answer the question.\n<inputs>\nIs it big?": "回答问题。\n<inputs>\n它大吗？", "Answer.": "请回答。",
}  # fmt: skip


def write(path, value):
    path.write_text(json.dumps(value), "utf8")
    return path


def test_vqav2_rows_keep_all_but_their_words(tmp_path):
    asked = {"license": "x", "questions": [
        {"question_id": 7, "image_id": 1, "question": "Is it big?", "more": [1]},
        {"question_id": 8, "image_id": 2, "question": "How many dogs?"},
        {"question_id": 9, "image_id": 2, "question": "Unknown words"},
        {"question_id": 10, "image_id": 2, "question": "Is it big?"},
    ]}  # fmt: skip
    told = {"annotations": [
        {"question_id": 7, "image_id": 1, "multiple_choice_answer": "yes", "question_type": "is", "answers": [
            {"answer": "yes", "answer_id": 1}, {"answer": "large", "answer_id": 2}, {"answer": "", "answer_id": 3},
            {"answer": "yes", "answer_id": 4}]},
        {"question_id": 8, "image_id": 2, "multiple_choice_answer": "2", "answers": [{"answer": "2"}]},
        {"question_id": 9, "image_id": 2, "multiple_choice_answer": "yes", "answers": [{"answer": "yes"}]},
    ]}  # fmt: skip
    files = write(tmp_path / "q.json", asked), write(tmp_path / "a.json", told)
    targets, quarantine = (tmp_path / "zh" / "q.json", tmp_path / "zh" / "a.json"), Quarantine()
    assert translate_vqav2(*files, targets, said(TABLE), quarantine) == 2
    result = [json.loads(target.read_text("utf8")) for target in targets]
    assert result[0] == {"license": "x", "questions": [
        {"question_id": 7, "image_id": 1, "question": "它大吗？", "more": [1]},
        {"question_id": 8, "image_id": 2, "question": "有几只狗？"},
    ]}  # fmt: skip
    assert result[1]["annotations"][0] == told["annotations"][0] | {
        "multiple_choice_answer": "大",
        "answers": [
            {"answer": "大", "answer_id": 1}, {"answer": "大的", "answer_id": 2}, {"answer": "", "answer_id": 3},
            {"answer": "大", "answer_id": 4},
        ],
    }  # fmt: skip
    assert result[1]["annotations"][1] == told["annotations"][1]
    assert quarantine.rows == [
        ("q.json", "10", "question_id", "has no annotation"),
        ("q.json", "9", "translation", "instruction: words are left in English"),
    ]
    samples = list(read_vqav2(*targets, tmp_path, "zh"))
    assert samples[0].turns == (Turn("它大吗？", "大"),) and samples[0].references == ("大", "大的")


def test_gqa_rows_keep_all_but_their_words(tmp_path):
    rows = {
        "01": {"question": "Is it big?", "imageId": "5", "answer": "yes", "fullAnswer": "Yes, it is big.",
               "types": {"detailed": "size"}, "semantic": [{"x": 1}]},
        "02": {"question": "Who is there?", "imageId": "6", "answer": "a cat"},
        "03": {"question": 5, "imageId": "6", "answer": "a cat"},
    }  # fmt: skip
    quarantine = Quarantine()
    source, target = write(tmp_path / "g.json", rows), tmp_path / "zh.json"
    assert translate_gqa(source, target, said(TABLE), quarantine) == 2
    assert json.loads(target.read_text("utf8")) == {
        "01": rows["01"] | {"question": "它大吗？", "answer": "大", "fullAnswer": "是的，它很大。"},
        "02": rows["02"] | {"question": "谁在那里？", "answer": "猫"},
    }
    assert quarantine.counts() == {"question: empty or not text": 1}


def test_llava_rows_keep_their_pictures_and_marks(tmp_path):
    box = "(10,20),(300,400)"
    rows = [
        {"id": "a", "image": ["x.png", "y.png"], "model": "m", "conversations": [
            {"from": "human", "value": "<image>\nIs it big?"}, {"from": "gpt", "value": "yes"},
            {"from": "human", "value": "Where is it?\n<image>", "weight": 1}, {"from": "gpt", "value": box}]},
        {"id": "b", "image": "x.png", "conversations": [{"from": "gpt", "value": "yes"}]},
        {"id": "c", "conversations": [{"from": "human", "value": "三只狗？"}, {"from": "gpt", "value": "T恤"}]},
    ]  # fmt: skip
    quarantine = Quarantine()
    source, target = write(tmp_path / "l.json", rows), tmp_path / "zh.json"
    assert translate_llava(source, target, said(TABLE), quarantine) == 2
    first, second = json.loads(target.read_text("utf8"))
    assert [turn["value"] for turn in first["conversations"]] == [
        "<image>\n它大吗？",
        "大",
        "它在哪里？\n<image>",
        box,
    ]
    assert (
        first["conversations"][2]["weight"] == 1
        and first["model"] == "m"
        and first["image"] == rows[0]["image"]
    )
    assert second == rows[2], "what is Chinese already stays, and no teacher is asked"
    assert [row[1] for row in quarantine.rows] == ["[1]"]
    assert len(list(read_llava(target, tmp_path, "zh"))) == 2


def test_m3it_rows_keep_their_pictures(tmp_path):
    rows = [
        {"instruction": "Answer the question.", "inputs": "Is it big?", "image_base64_str": ["AAAA"], "outputs": "yes"},
        {"instruction": "Answer.", "inputs": "", "image_base64_str": ["BBBB"], "outputs": "large", "x": 1},
        {"instruction": "Use <inputs>", "inputs": "", "image_base64_str": [], "outputs": "large"},
    ]  # fmt: skip
    source, target, quarantine = tmp_path / "m.jsonl", tmp_path / "zh.jsonl", Quarantine()
    source.write_text("\n".join(map(json.dumps, rows)) + "\n{oops\n", "utf8")
    assert translate_m3it(source, target, said(TABLE), quarantine) == 2
    assert [json.loads(line) for line in target.read_text("utf8").splitlines()] == [
        rows[0] | {"instruction": "回答问题。", "inputs": "它大吗？", "outputs": "大"},
        rows[1] | {"instruction": "请回答。", "outputs": "大的"},
    ]
    assert quarantine.counts() == {"instruction: has the mark <inputs>": 1, "row: not JSON": 1}


def test_a_long_dialogue_is_sent_in_parts_and_comes_back_whole(tmp_path):
    turns = [Turn("Is it big?", "yes"), Turn("Who is there?", "a cat")] * 15
    sizes = []

    def counting(requests):
        answers = said(TABLE)(requests)
        sizes.extend(len(answer.dialogue.turns) for answer in answers)
        return answers

    done = translated({"r": turns}, counting, tmp_path / "f", Quarantine())
    assert sizes == [12, 12, 6]
    assert done["r"] == (Turn("它大吗？", "大"), Turn("谁在那里？", "猫")) * 15


def unreadable(answer):
    return Answer(answer.id, None, "no dialogue", "oops")


def doubled(answer):
    return Answer(answer.id, Dialogue(turns=answer.dialogue.turns * 2), "", "")


def counting_three(answer):
    turns = [{"instruction": "第三个大吗？", "response": "大"}]
    return Answer(answer.id, Dialogue.model_validate({"turns": turns}), "", "")


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (unreadable, "no dialogue"),
        (doubled, "turns: not as many as were sent"),
        (counting_three, "instruction: a number is not in the source"),
    ],
)
def test_a_spoilt_answer_costs_one_row_and_is_counted(tmp_path, spoil, reason):
    rows = {"one": [Turn("Is it big?", "yes")], "two": [Turn("Who is there?", "a cat")]}
    quarantine = Quarantine()

    def spoiling(requests):
        first, *rest = said(TABLE)(requests)
        return [spoil(first), *rest]

    done = translated(rows, spoiling, tmp_path / "f.json", quarantine)
    assert set(done) == {"two"}
    assert quarantine.rows == [("f.json", "one", "translation", reason)]


def test_a_row_with_one_bad_part_is_put_aside_whole(tmp_path):
    turns, quarantine = [Turn("Is it big?", "yes")] * 12 + [Turn("Not in the table", "yes")], Quarantine()
    assert translated({"r": turns, "s": turns[:3]}, said(TABLE), tmp_path / "f", quarantine).keys() == {"s"}
    assert [row[1] for row in quarantine.rows] == ["r"]


def test_a_word_read_from_a_picture_may_stay_english():
    read = Turn("What does the sign say?", "open"), Turn("牌子上写着什么？", "open")
    assert check_dialogue(read[:1], read[1:]) == {}
    named = Turn("Say what you see.", "tiger"), Turn("说说你看到什么。", "tiger")
    assert check_dialogue(named[:1], named[1:]) == {"untranslated": "response: words are left in English"}


def test_hostile_texts_cost_no_more_time_than_their_length():
    many = 6_000
    start = time.perf_counter()
    for text in (" " * many + "x", "“" * many, "<" * many, "a@" * many, "1," * many, "亿" * many, "(1,2)," * many,
                 "hundred " * many, "9" * many, "<image>" * many, "{" * many, "<image> " * many + "x"):  # fmt: skip
        check_dialogue([Turn(text, text)], [Turn(text, text + "a")])
        translated({"row": [Turn(text, text)]}, said({}), "file", Quarantine())
    assert time.perf_counter() - start < 30, "a quadratic search takes minutes"


def test_the_moji_world_is_translated_through_the_symbolic_teacher(tmp_path):
    world = write_world(tmp_path / "w", WorldConfig(6, 2, seed=SEED, extra_scenes=2))
    quarantine, asked = Quarantine(), {language: {} for language in LANGUAGES}
    with Ledger(tmp_path / "ledger.jsonl") as ledger:

        def go(requests):
            return ask(SymbolicTeacher(), requests, ledger)

        targets = tmp_path / "q.json", tmp_path / "a.json"
        files = world / "questions_en_train.json", world / "annotations_en_train.json"
        kept = translate_vqav2(*files, targets, go, quarantine)
        kept += translate_gqa(world / "gqa_en_train.json", tmp_path / "g.json", go, quarantine)
        kept += translate_llava(world / "llava_en_train.json", tmp_path / "l.json", go, quarantine)
    for language, folder in (("en", None), ("zh", tmp_path)):
        q, a, g, c = (*targets, tmp_path / "g.json", tmp_path / "l.json") if folder else (
            *files, world / "gqa_en_train.json", world / "llava_en_train.json")  # fmt: skip
        found = [*read_vqav2(q, a, world, ""), *read_gqa(g, world, ""), *read_llava(c, world, "")]
        asked[language] = {sample.id: sample for sample in found}
    assert len(asked["zh"]) == kept and kept + len(quarantine.rows) == len(asked["en"])
    assert kept > 0.9 * len(asked["en"])
    for name, sample in asked["zh"].items():
        assert sample.images == asked["en"][name].images and len(sample.turns) == len(asked["en"][name].turns)
        assert not any(
            re.search("[a-z]{3}", turn.instruction.replace("<image>", "")) for turn in sample.turns
        )


# --- names that are not literal ---


def test_the_table_of_names_that_are_not_literal_follows_cldr():
    path = Path(moji.__file__).with_name("sentences") / "not_literal.yaml"
    rows = yaml.safe_load(path.read_text("utf8"))
    known = {concept.char: concept.names for concept in moji.concepts()}
    assert len({row["char"] for row in rows}) == len(rows) >= 12
    for row in rows:
        assert set(row) == {"char", "en", "zh", "literal", "mistake", "why_en", "why_zh"}
        assert {"en": row["en"], "zh": row["zh"]} == known[row["char"]]
        assert row["literal"] != row["zh"] and not re.search("[a-zA-Z]", row["literal"])
        assert row["mistake"] in ("none", "partly", "real")
        assert row["why_en"].endswith(".") and row["why_zh"].endswith("。")
        assert len(re.findall(r"[\u3400-\u9fff]", row["why_zh"])) > len(re.findall("[A-Za-z]", row["why_zh"]))
    assert {row["mistake"] for row in rows} == {"none", "partly", "real"}
