"""What figures show, read back from the drawn objects, and that Chinese glyphs are there."""

import logging
import warnings

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_hex

from zvl import figures
from zvl.evaluation.bootstrap import Interval
from zvl.figures import Case, Exchange, Stage, diagrams, style
from zvl.model.objectives import ITM_PRIOR_ENTROPY

RED_SQUARE = Image.new("RGB", (32, 32), "red")
WATCHED = {"step": 5, "itm": 0.6, "eval/en/tr1": 0.3, "temperature": 0.07, "query_similarity": 0.4}
PARTS = (("vision_model", 0, 2100), ("query_tokens", 0, 48), ("qformer", 0, 1300), ("itc_heads", 0, 35),
         ("language_projection", 33, 0), ("language_model", 0, 3_400_000))  # fmt: skip
LORA = (("vision_model", 40, 2100), ("query_tokens", 48, 0), ("qformer", 1300, 0), ("itc_heads", 0, 35),
        ("language_projection", 33, 0), ("language_model", 60, 3_400_000))  # fmt: skip


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def draw(figure) -> str:
    """Draw with every warning an error; returns all texts of the figure."""
    figure.canvas.draw()
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def every_figure() -> dict:
    cjk = "看图：红色方块，“左边”有什么？"
    interval = Interval(0.5, 0.4, 0.6)
    exchange = Exchange(cjk, "方块", {"Base": ("圆", False), "Chat": ("方块", True)})
    return {
        "mask": lambda: figures.show_mask(np.eye(4), ["查询", "文本"], title=cjk),
        "masks": lambda: figures.show_masks({cjk: (torch.eye(4).bool(), {"查询": 1, "文本": 3})}),
        "scenes": lambda: figures.show_scenes(
            [RED_SQUARE], [[(1, 2, 3, 4)]], [("a red square", cjk)], [["方"]]
        ),
        "attention": lambda: figures.attention_overlay(RED_SQUARE, {cjk: np.ones(17) / 17}),
        "gallery": lambda: figures.case_gallery([Case(RED_SQUARE, (exchange,))]),
        "losses": lambda: figures.loss_curves({cjk: [{"step": 1, "itm": 0.6}]}, keys=["itm"]),
        "watching": lambda: figures.watching([WATCHED]),
        "bars": lambda: figures.bars_with_intervals({"中文": {"基线": interval}}, title=cjk),
        "stages": lambda: figures.stage_diagram([Stage(cjk, LORA, True)]),
        "parameters": lambda: figures.parameter_table([Stage(cjk, PARTS)]),
    }


@pytest.mark.parametrize("name", every_figure())
def test_chinese_renders_without_a_warning(name, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        figure = every_figure()[name]()
        figure.canvas.draw()
    assert not caplog.records
    assert figure in [plt.figure(number) for number in plt.get_fignums()], "plt.show() must find it"


def test_the_font_holds_chinese_and_is_found_by_path():
    name = figures.use_cjk_font()
    path = matplotlib.font_manager.findfont(name, fallback_to_default=False)
    font = matplotlib.font_manager.get_font(path)
    assert path.endswith(".ttf")
    assert all(font.get_char_index(ord(c)) for c in "的一图像问答")
    fallback = matplotlib.font_manager.get_font(matplotlib.font_manager.findfont("DejaVu Sans"))
    assert all(font.get_char_index(ord(c)) or fallback.get_char_index(ord(c)) for c in "✓✗−")


def test_mask_shows_what_may_attend():
    mask = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    figure = figures.show_mask(mask, ["queries", "text"], sizes=[1, 2])
    ax = figure.axes[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), mask.numpy())
    assert to_hex(ax.images[0].cmap(1)) == style.BLUE.lower()
    assert to_hex(ax.images[0].cmap(0)) == "#ffffff"
    assert list(ax.get_xticks()) == list(ax.get_yticks()) == [0.0, 1.5]


def test_mask_blocks_must_fit():
    with pytest.raises(ValueError, match=r"mask \(3, 3\) and blocks .* do not fit"):
        figures.show_mask(np.eye(3), ["queries", "text"])


def test_scenes_draw_boxes_where_they_are():
    figure = figures.show_scenes([RED_SQUARE] * 5, [[(1, 2, 3, 4)]] + [[]] * 4, [("a", "红")] * 5, columns=4)
    box = figure.axes[0].patches[0]
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (1, 2, 3, 4)
    assert figure.axes[0].get_xlabel() == "a\n红"
    assert [ax.get_visible() for ax in figure.axes] == [True] * 5 + [False] * 3
    with pytest.raises(ValueError, match="2 images but 1 captions"):
        figures.show_scenes([RED_SQUARE] * 2, captions=["a"])


def test_images_come_as_path_array_or_tensor(tmp_path):
    RED_SQUARE.save(tmp_path / "red.png")
    tensor = torch.zeros(32, 32, 3)
    tensor[..., 0] = 1
    figure = figures.show_scenes(
        [tmp_path / "red.png", str(tmp_path / "red.png"), tensor, np.asarray(RED_SQUARE)]
    )
    for ax in figure.axes:
        np.testing.assert_array_equal(ax.images[0].get_array(), np.asarray(RED_SQUARE))
    with pytest.raises(ValueError, match=r"image of shape \(3, 4, 4\)"):
        figures.show_scenes([np.zeros((3, 4, 4))])


def test_attention_lies_over_its_patches_without_the_class_token():
    weights = np.array([0.5, 0.4, 0.0, 0.0, 0.1])  # class token first, then 2 x 2 patches
    figure = figures.attention_overlay(RED_SQUARE, weights[None])
    overlay = figure.axes[1].images[1]
    np.testing.assert_allclose(overlay.get_array(), [[0.4, 0.0], [0.0, 0.1]])
    assert (
        list(overlay.get_extent()) == list(figure.axes[1].images[0].get_extent()) == [-0.5, 31.5, 31.5, -0.5]
    )
    assert figure.axes[1].get_xlabel() == "50% on patches"
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        figures.attention_overlay(RED_SQUARE, np.ones((1, 6)))


def test_gallery_marks_right_and_wrong_answers():
    exchange = Exchange("What is it?", "square", {"Base": ("circle", False), "Chat": ("", True)})
    figure = figures.case_gallery([Case(RED_SQUARE, (exchange,))] * 3)
    texts = {t.get_text(): to_hex(t.get_color()) for t in figure.axes[1].texts}
    assert texts["✗ Base: circle"] == style.RED.lower()
    assert texts["✓ Chat: (nothing)"] == style.GREEN.lower()
    assert "(square)" in texts
    assert len(figure.axes) == 6


def test_loss_curves_draw_the_prior_of_matching():
    assert pytest.approx(ITM_PRIOR_ENTROPY, abs=5e-5) == figures.ITM_PRIOR
    rows = [{"step": i, "itc": 4.0 - i, "itm": 0.7} for i in range(4)] + [{"step": 9, "accuracy": 1.0}]
    figure = figures.loss_curves(rows, keys=["itc", "itm"])
    itc, itm = figure.axes
    assert itc.lines[0].get_ydata().tolist() == [4, 3, 2, 1]
    assert itm.lines[1].get_ydata() == [figures.ITM_PRIOR] * 2
    assert "0.6365" in draw(figure)
    with pytest.raises(ValueError, match=r"has 'itg'; rows have \['itc', 'itm', 'step'\]"):
        figures.loss_curves(rows)


def test_smoothing_is_centred():
    rows = [{"step": i, "itc": v} for i, v in enumerate([0, 0, 3, 0, 0])]
    raw, mean = figures.loss_curves(rows, keys=["itc"], smooth=3).axes[0].lines
    assert raw.get_ydata().tolist() == [0, 0, 3, 0, 0]
    assert mean.get_xdata().tolist() == [1, 2, 3]
    np.testing.assert_allclose(mean.get_ydata(), [1, 1, 1])


def test_bars_stand_at_their_means_with_their_intervals():
    bars = {"majority": 0.25, "Base": Interval(0.6, 0.5, 0.8)}
    figure = figures.bars_with_intervals({"English": bars, "中文": bars}, baselines=["majority"], chance=0.1)
    ax = figure.axes[0]
    assert [bar.get_height() for bar in ax.patches] == [0.25, 0.6, 0.25, 0.6]
    assert [to_hex(bar.get_facecolor()) for bar in ax.patches[:2]] == [
        style.GREYS[0].lower(),
        style.BLUE.lower(),
    ]
    low_high = ax.collections[0].get_segments()[0][:, 1]
    np.testing.assert_allclose(low_high, [0.5, 0.8])
    assert len(ax.collections) == 2, "a plain fraction has no interval"
    assert [label.get_text() for label in ax.get_legend().texts] == ["chance (0.1)", "majority", "Base"]


def test_bars_refuse_other_scales_and_uneven_groups():
    with pytest.raises(ValueError, match="English, CIDEr"):
        figures.bars_with_intervals({"English": {"CIDEr": 93.9}})
    with pytest.raises(ValueError, match="group 'zh' has bars"):
        figures.bars_with_intervals({"en": {"a": 0.1, "b": 0.2}, "zh": {"b": 0.2, "a": 0.1}})


def colours_of(figure) -> list[str]:
    return [to_hex(patch.get_facecolor()).upper() for patch in figure.axes[0].patches]


def arrows_into_the_qformer_from_below(figure) -> int:
    ends = [note.xy for note in figure.axes[0].texts if getattr(note, "arrow_patch", None)]
    return sum(end == (5.4, 2.4) for end in ends)


def test_stage_diagram_colours_what_trains():
    frozen, trainable = diagrams.FROZEN, diagrams.TRAINABLE
    base = figures.stage_diagram([Stage("Base, stage 1", PARTS)])
    assert colours_of(base) == [frozen, frozen, trainable, frozen], "ViT, Q-Former, FC, LLM"
    assert "LoRA" not in draw(base)
    assert "itc_heads: 35 frozen" in draw(base)
    assert "3.4 M frozen" in draw(base)
    assert "1.35 k frozen" in draw(base), "the queries count with the Q-Former"
    chat = figures.stage_diagram([Stage("Chat, stage 2", LORA, instruction_aware=True)])
    assert colours_of(chat) == [frozen, trainable, trainable, trainable, frozen, trainable], (
        "LoRA inside ViT, LLM"
    )
    assert "LoRA 40" in draw(chat)
    assert "LoRA 60" in draw(chat)
    assert (arrows_into_the_qformer_from_below(base), arrows_into_the_qformer_from_below(chat)) == (0, 1)


def test_stage_diagram_names_a_missing_part():
    with pytest.raises(ValueError, match=r"'odd'.*have none for \['LLM'\]"):
        figures.stage_diagram([Stage("odd", PARTS[:-1])])


def test_parameter_table_counts_and_sums():
    figure = figures.parameter_table([Stage("Base", PARTS), Stage("Chat", LORA)])
    cells = figure.axes[0].tables[0].get_celld()
    assert cells[3, 1].get_text().get_text() == "1.3 k train"
    assert cells[1, 1].get_text().get_text() == "40 train, 2.1 k frozen"
    assert cells[7, 0].get_text().get_text() == "33 train, 3.4 M frozen"
    assert to_hex(cells[3, 0].get_facecolor()).upper() == diagrams.FROZEN
    assert to_hex(cells[3, 1].get_facecolor()).upper() == diagrams.TRAINABLE
    with pytest.raises(ValueError, match="'Chat' lists"):
        figures.parameter_table([Stage("Base", PARTS), Stage("Chat", LORA[1:])])


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("a red apple", 5, "a red\napple"),
        ("红色的苹果", 6, "红色的\n苹果"),
        ("有苹果，香蕉", 6, "有苹\n果，香\n蕉"),
        ("unbreakable", 4, "unbreakable"),
        ("", 4, ""),
    ],
)
def test_wrap_breaks_chinese_anywhere_but_before_punctuation(text, width, expected):
    assert style.wrap(text, width) == expected


def test_watching_shows_each_panel_shades_alarms_and_says_what_was_not_measured():
    history = [
        WATCHED | {"step": step, "itm_alarm": float(step == 10), "itm_accuracy": 0.7} for step in (5, 10, 15)
    ]
    history[1]["eval/zh/tr1"] = 0.2
    figure = figures.watching(history, chance=0.25)
    losses, retrieval, matching, temperature, gradient, similarity = figure.axes
    drawn = {line.get_label(): list(line.get_xdata()) for line in retrieval.lines}
    assert drawn["English, TR@1"] == [5, 10, 15] and drawn["Chinese, TR@1"] == [10]
    assert [y for line in retrieval.lines[-1:] for y in line.get_ydata()] == [0.25, 0.25]
    assert [line.get_ydata()[0] for line in losses.lines] == [0.6, pytest.approx(ITM_PRIOR_ENTROPY)]
    (rang,) = matching.patches
    assert (rang.get_x(), rang.get_width()) == (5, 5), "the alarm rang for the steps up to 10"
    assert not temperature.patches and similarity.lines[0].get_ydata()[0] == 0.4
    assert "not measured" in draw(figure) and not gradient.lines
    with pytest.raises(ValueError, match=r"anything to show; rows have \['step'\]"):
        figures.watching([{"step": 1}])
