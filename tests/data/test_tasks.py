import re

import pytest
import torch

from metafunc.data.tasks import check_count, check_float, check_generator, refusal


def test_refusal_says_what_was_expected_what_was_there_and_what_to_do():
    assert str(refusal("ways", "at most 3", 5, "ask for fewer")) == (
        "ways: expected at most 3, got 5. Ask for fewer."
    )


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None])
def test_counts_that_are_none(value):
    whole = isinstance(value, int) and not isinstance(value, bool)
    got = f"{value}" if whole else f"{type(value).__name__} {value!r}"
    text = f"n: expected an integer of at least 1, got {got}. Give n such a value, e.g. n=5."
    with pytest.raises(ValueError if whole else TypeError, match=f"^{re.escape(text)}$"):
        check_count("n", value)


@pytest.mark.parametrize("value", [torch.int64, torch.uint8, "float32", None])
def test_dtypes_that_are_not_floating(value):
    text = f"dtype: expected a floating-point dtype, got {value!r}. Give torch.float32 or torch.float64, say."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        check_float("dtype", value)


@pytest.mark.parametrize("value", [0, None])
def test_generators_that_are_none(value):
    text = (
        f"generator: expected a torch.Generator, got {type(value).__name__}. "
        "Pass torch.Generator().manual_seed(0), say."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        check_generator(value)


def test_good_values_pass():
    check_count("n", 1)
    check_float("dtype", torch.bfloat16)
    check_generator(torch.Generator())
