"""What the tests of the data share."""

import pytest

from metafunc.data import ImageDataset, glyphs


@pytest.fixture(scope="session")
def letters() -> ImageDataset:
    return glyphs()
