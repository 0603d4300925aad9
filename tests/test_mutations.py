"""Every mutation of the list is one of the source as it stands."""

from __future__ import annotations

import re

import pytest

from tests.mutations import MUTATIONS, misfits

FITTING = MUTATIONS[0]


def test_every_mutation_fits() -> None:
    assert [(m.file, m.line, why) for m in MUTATIONS for why in misfits(m)] == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"file": "no_such_file.py"}, "there is no such file"),
        ({"line": "no such line"}, "the file has the line 0 times"),
        ({"line": "return"}, r"the file has the line ([2-9]|\d\d+) times"),
        ({"becomes": FITTING.line}, "it changes nothing"),
        ({"becomes": "(("}, "it does not compile: "),
        ({"tests": "tests/test_no_such.py"}, "there is no tests/test_no_such.py"),
        ({"tests": f"{FITTING.tests} -k no_such_name"}, f"no test of {FITTING.tests} has 'no_such_name'"),
        ({"tests": "tests/linear/ -k no_such_name"}, "no test of tests/linear/ has 'no_such_name'"),
    ],
)
def test_one_that_does_not_fit_is_found(change: dict[str, str], complaint: str) -> None:
    (found,) = misfits(FITTING._replace(**change))
    assert re.match(complaint, found)
