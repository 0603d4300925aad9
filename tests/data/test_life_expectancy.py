import re
import sys

import pytest
import torch

from metafunc.data import LifeExpectancy

pytest.importorskip("pandas", reason="needs pandas")
plotly = pytest.importorskip("plotly.data", reason="needs plotly")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lives() -> dict[tuple[str, int], float]:
    table = plotly.gapminder(return_type="pandas")
    keys = zip(table["country"], table["year"], strict=True)
    return dict(zip(keys, table["lifeExp"], strict=True))


def test_every_country_is_in_one_split():
    splits = [LifeExpectancy(name).names for name in ("train", "val", "test")]
    assert [len(names) for names in splits] == [100, 20, 22]
    assert set().union(*splits) == {country for country, _ in lives()}
    assert LifeExpectancy(seed=1).names != splits[0]


def test_all_is_standardised_by_the_training_countries():
    known = lives()
    training = torch.tensor(
        [known[name, year] for name in LifeExpectancy().names for year in range(1952, 2008, 5)]
    )
    for split in ("train", "test"):
        family = LifeExpectancy(split)
        assert family.mean == pytest.approx(float(training.mean()))
        assert family.std == pytest.approx(float(training.std(correction=0)))


@pytest.mark.parametrize("forecast", [False, True])
def test_points_are_those_of_the_country_named(forecast):
    known = lives()
    family = LifeExpectancy("val", shots=3, queries=5, forecast=forecast, dtype=torch.float64)
    tasks, names = family.sample(30, seeded()), family.countries(30, seeded())
    x, y = (torch.cat(parts, 1)[..., 0] for parts in zip(tasks["support"], tasks["query"], strict=True))
    years = (x + 1) * 27.5 + 1952
    for name, row, values in zip(names, years.tolist(), (y * family.std + family.mean).tolist(), strict=True):
        assert len({round(year) for year in row}) == 8
        assert values == pytest.approx([known[name, round(year)] for year in row])
        if forecast:
            assert row == pytest.approx(range(1952, 1992, 5))
    assert forecast or years[:, 0].unique().numel() > 6


def test_shapes_dtype_and_chance():
    family = LifeExpectancy(shots=2, queries=4)
    tasks = family.sample(6, seeded())
    assert [t.shape for t in (*tasks["support"], *tasks["query"])] == [(6, 2, 1)] * 2 + [(6, 4, 1)] * 2
    assert tasks["query"][1].dtype == torch.float32
    assert torch.equal(tasks["query"][1], family.sample(6, seeded())["query"][1])
    assert repr(family) == (
        "LifeExpectancy(split='train', countries=100, shots=2, queries=4, forecast=False, seed=0)"
    )


WRONG = {
    "split": (
        lambda: LifeExpectancy("valid"),  # type: ignore[arg-type]
        "split: expected 'train', 'val' or 'test', got 'valid'. Give split such a value, e.g. split='train'.",
    ),
    "years": (
        lambda: LifeExpectancy(shots=6),
        "shots + queries: expected at most the 12 years of a country, got 6 + 7 = 13. Ask for fewer queries.",
    ),
    "generator": (
        lambda: LifeExpectancy().sample(1, None),  # type: ignore[arg-type]
        "generator: expected a torch.Generator, got NoneType. Pass torch.Generator().manual_seed(0), say.",
    ),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        make()


def test_without_plotly_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.data", None)
    text = (
        "LifeExpectancy: expected the package plotly, whose data it reads with pandas, got none installed. "
        "Run pip install 'metafunc[data]'."
    )
    with pytest.raises(ImportError, match=f"^{re.escape(text)}$"):
        LifeExpectancy()
