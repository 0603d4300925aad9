"""The page on data says what there is, and its code runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from metafunc.data.formats import FORMS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def test_every_form_is_on_the_page() -> None:
    rows = [
        line.rstrip("| ").rpartition("| ")[2].strip("`")
        for line in PAGE.splitlines()
        if line.startswith("| ")
    ]
    assert {form.__name__ for form in FORMS} <= set(rows)


def test_the_code_runs() -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(block, "docs/data.md", "exec"), names)
    assert names["tasks"]["support"][0].shape == (32, 5, 1, 28, 28)
    assert abs(names["support"][0].mean()) < 0.5  # normalised
