"""Which letters are drawn: their scripts, their splits and their names."""

import unicodedata
from dataclasses import dataclass
from typing import final

from metafunc.data.glyphs_generate.fonts import Face

SPLITS = {
    "test": ("georgian", "hebrew", "lao", "nko"),
    "val": ("armenian", "tifinagh", "old italic", "ogham"),
    "train": ("latin", "greek", "cyrillic", "coptic", "arabic", "canadian", "lisu"),
}
"""The scripts of each split, in the order in which letters are chosen: of two letters that look alike in
different splits the earlier stays, so that the alphabets nobody trains on are as complete as can be and the
large ones of training give way."""

_LETTERS = ("Lu", "Ll", "Lo", "Nd")
"""Unicode's categories of upper case, lower case and other letters, and of digits; no marks, no modifiers, no
symbols."""

_TOO_FINE = {0xA66E}
"""The Cyrillic letter with ten eyes fills up with ink, and ten eyes less ten pupils do not show it in the
count of holes."""

_WORDS = {"LETTER", "DIGIT", "SYLLABICS"}
"""Words of Unicode's names that tell nothing apart."""


@final
@dataclass(frozen=True, slots=True)
class Letter:
    """A letter that may become a class.

    Attributes:
        character: its code point.
        name: "script/name", such as "greek/capital-omega".
        split: the split its script belongs to.
    """

    character: int
    name: str
    split: str


def candidates(face: Face) -> list[Letter]:
    """The letters that `face` has, split by split, then script by script, then by code point.

    Left out is what Unicode composes of something else (letters with accents, ligatures, letters of a
    mathematical style), with one exception: the joined forms of Arabic letters, whose shapes are their own.
    """
    found: list[Letter] = []
    for split, scripts in SPLITS.items():
        for script in scripts:
            for character in sorted(face.characters):
                its_script, name = _script_and_name(character)
                if its_script == script and _stands_alone(character) and face.has_ink(character):
                    found.append(Letter(character, f"{script.replace(' ', '-')}/{name}", split))
    return found


def _stands_alone(character: int) -> bool:
    text = chr(character)
    if unicodedata.category(text) not in _LETTERS or character in _TOO_FINE:
        return False
    kind, *parts = unicodedata.decomposition(text).split() or [""]
    joined = kind in ("<initial>", "<medial>", "<final>") and len(parts) == 1
    return joined or unicodedata.normalize("NFKD", text) == text


def _script_and_name(character: int) -> tuple[str, str]:
    """("greek", "capital-omega") for U+03A9; ("", "") where the character is of none of the scripts."""
    text = unicodedata.name(chr(character), "")
    # Unicode names digits in other ways than letters, and has those of the Latin script for everybody's.
    text = text.replace("EXTENDED ARABIC-INDIC", "ARABIC PERSIAN").replace("ARABIC-INDIC", "ARABIC")
    text = f"LATIN {text}" if text.startswith("DIGIT ") else text
    for scripts in SPLITS.values():
        for script in scripts:
            if text.startswith(f"{script.upper()} "):
                words = [w for w in text[len(script) + 1 :].split() if w not in _WORDS]
                return script, "-".join(words).lower()
    return "", ""
