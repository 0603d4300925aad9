import unicodedata

from metafunc.data.glyphs_generate.letters import SPLITS, candidates

SQUARE = [(0, 0), (0, 10), (10, 10), (10, 0)]


def test_letters_and_digits_of_the_scripts_alone(make_face):
    kept = "AÆ7ΩЖאაᐁ٣"
    # Accented, ligature, modifier, symbol, style, script not asked for, too fine, mark; and one without ink.
    left = "ÉﬁʰΩ∑𝔸漢ꙮ\u0301"
    face = make_face({**dict.fromkeys(kept + left, SQUARE), "B": []})
    assert {chr(letter.character) for letter in candidates(face)} == set(kept)


def test_names_and_splits(make_face):
    found = candidates(make_face(dict.fromkeys([*"Ωa7ა", "\u06f7", "\u0667"], SQUARE)))
    assert {(letter.name, letter.split) for letter in found} == {
        ("greek/capital-omega", "train"),
        ("latin/small-a", "train"),
        ("latin/seven", "train"),
        ("georgian/an", "test"),
        ("arabic/persian-seven", "train"),
        ("arabic/seven", "train"),
    }


def test_test_letters_come_first_so_that_they_stay(make_face):
    found = candidates(make_face(dict.fromkeys("aԱა", SQUARE)))
    assert [letter.split for letter in found] == ["test", "val", "train"]


def test_joined_forms_of_arabic_are_letters_and_isolated_ones_are_not(make_face):
    beh = {chr(code): SQUARE for code in (0xFE8F, 0xFE90, 0xFE91, 0xFE92)}
    assert [letter.character for letter in candidates(make_face(beh))] == [0xFE90, 0xFE91, 0xFE92]


def test_the_letters_of_the_canonical_face(family):
    found = candidates(family[0])
    assert len({letter.name for letter in found}) == len(found)
    assert all(letter.name.count("/") == 1 and not letter.name.endswith("/") for letter in found)
    assert all(unicodedata.category(chr(letter.character)) in ("Lu", "Ll", "Lo", "Nd") for letter in found)
    assert len(found) > 1900


def test_no_script_is_in_two_splits():
    scripts = [script for split in SPLITS.values() for script in split]
    assert len(set(scripts)) == len(scripts)
