"""The art: three artists for every concept, signs that can be read, frames of the named colour."""

import numpy as np
import pytest

from zvl.data import drawing, moji


def test_three_artists_drew_every_concept_and_drew_it_differently():
    for concept in moji.concepts():
        arts = [np.asarray(drawing.sprite(concept.char, art), float) for art in drawing.ART_SETS]
        assert {art.shape for art in arts} == {(drawing.SPRITE_SIZE, drawing.SPRITE_SIZE, 4)}
        assert all(art[..., 3].max() > 60 for art in arts), concept.names
        assert all(np.abs(arts[i] - arts[j]).mean() > 2 for i, j in ((0, 1), (0, 2), (1, 2))), concept.names


def test_an_unknown_art_set_or_character_is_named():
    with pytest.raises(ValueError, match=r"'crayon'.*openmoji, twemoji, noto"):
        drawing.sprite("🐅", "crayon")
    with pytest.raises(LookupError, match="twemoji has no art for 'x'"):
        drawing.sprite("x", "twemoji")
    with pytest.raises(LookupError, match="the Noto sheet has no art for 'x'"):
        drawing.sprite("x", "noto")


def test_signs_differ_by_their_words_and_fill_their_plates():
    low, high = moji.SIZES["big"]
    for side in (low, high):
        plates = {word: np.asarray(drawing.sign(word, side).convert("L"), int) for word in moji.SIGN_WORDS}
        assert len({plate.tobytes() for plate in plates.values()}) == len(moji.SIGN_WORDS) == 48
        for word, plate in plates.items():
            rows, columns = np.nonzero(plate[1:-1, 1:-1] < 128)
            assert len(rows) > 20 and np.ptp(columns) >= side / 2 and np.ptp(rows) >= 6, (
                f"{word} is too small"
            )
            assert min(columns) > 0 and max(columns) < side - 3, f"{word} leaves its plate"


def test_a_frame_has_its_colour_and_lies_outside_the_box():
    for colour, wanted in drawing.FRAMES.items():
        picture = drawing.ground("white", 0).copy()
        before = np.asarray(picture).copy()
        drawing.draw_frame(picture, 20, 30, 24, colour)
        after = np.asarray(picture)
        assert (after[30:54, 20:44] == before[30:54, 20:44]).all()
        assert (after[28:30, 18:46] == wanted).all() and (after[28:56, 44:46] == wanted).all()


def test_what_draws_nothing_is_refused():
    from PIL import Image

    with pytest.raises(LookupError, match="nothing is drawn"):
        drawing.squared(Image.new("RGBA", (8, 8)))
