"""A card is readable by people and by programs, and a broken one says where."""

import pytest

from zvl.cards import read_card

GOOD = (
    "---\nid: moji\nname: The Moji world\nlicence: CC BY-SA 4.0\nlanguages: [en, zh]\n---\n\n# Moji\n\n世界\n"
)


def card(tmp_path, text):
    path = tmp_path / "moji.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_card_gives_its_fields_and_its_text(tmp_path):
    fields, text = read_card(card(tmp_path, GOOD))
    assert fields["languages"] == ["en", "zh"]
    assert text == "# Moji\n\n世界"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# Moji\n", "line 1"),
        ("---\nid: moji\n", "no closing line"),
        ("---\nid: [moji\n---\n", "line 2.*not YAML"),
        ("---\n- moji\n---\n", "not list"),
        (GOOD.replace("licence: CC BY-SA 4.0\n", ""), "field 'licence'"),
        (GOOD.replace("moji\n", '""\n', 1), "field 'id'"),
    ],
)
def test_a_broken_card_is_named_with_its_fault(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"moji\.md.*{message}"):
        read_card(card(tmp_path, text))
