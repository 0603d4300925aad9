"""Regression tasks of real data: the life expectancy of countries."""

from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor

from metafunc import options
from metafunc.data.tasks import Tasks, check_count, check_float, check_generator, refusal
from metafunc.errors import not_installed

COUNTRIES = {"train": 100, "val": 20, "test": 22}
"""How many of the 142 countries each split has."""


@final
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LifeExpectancy:
    """Samples tasks of regression: a country's life expectancy at birth as a function of the year.

    The data are Gapminder's as plotly ships them, 142 countries, every fifth year from 1952 to 2007. Years are
    scaled to [-1, 1]; life expectancy is standardised by the mean and the standard deviation of the training
    countries, in every split.

    Attributes:
        split: "train" (100 countries), "val" (20) or "test" (22).
        shots, queries: years to learn a country from, and to judge the outcome by; 12 together at most.
        forecast: learn from the first years and predict those that follow, rather than years drawn at random.
        seed: of the split of the countries.
        dtype: of x and y.
        device: where the tasks are.
        names: of the countries of the split; found.
        mean, std: of the training countries, in years of life; found.

    Raises:
        ImportError: plotly or pandas is missing.
        ValueError: an option is out of range.
    """

    split: Literal["train", "val", "test"] = "train"
    shots: int = 5
    queries: int = 7
    forecast: bool = False
    seed: int = 0
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    names: tuple[str, ...] = field(init=False)
    mean: float = field(init=False)
    std: float = field(init=False)
    _x: Tensor = field(init=False)
    _y: Tensor = field(init=False)

    def __post_init__(self) -> None:
        check_count("shots", self.shots)
        check_count("queries", self.queries)
        check_float("dtype", self.dtype)
        options.choice("split", self.split, *COUNTRIES)
        options.boolean("forecast", self.forecast)
        options.integer("seed", self.seed, 0, low=0)
        names, years, lives = _gapminder()
        if self.shots + self.queries > len(years):
            raise refusal(
                "shots + queries",
                f"at most the {len(years)} years of a country",
                f"{self.shots} + {self.queries} = {self.shots + self.queries}",
                "ask for fewer queries",
            )
        shuffled = torch.randperm(len(names), generator=torch.Generator().manual_seed(self.seed))
        parts: tuple[Tensor, ...] = torch.split(shuffled, list(COUNTRIES.values()))
        own = dict(zip(COUNTRIES, parts, strict=True))
        training = lives[own["train"]]
        mean, std = float(training.mean()), float(training.std(correction=0))
        found = {
            "names": tuple(names[int(index)] for index in own[self.split]),
            "mean": mean,
            "std": std,
            "_x": 2 * (years - years[0]) / (years[-1] - years[0]) - 1,
            "_y": (lives[own[self.split]] - mean) / std,
        }
        for name, value in found.items():
            # The only way to set a field of a frozen dataclass.
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return (
            f"LifeExpectancy(split={self.split!r}, countries={len(self.names)}, shots={self.shots}, "
            f"queries={self.queries}, forecast={self.forecast}, seed={self.seed})"
        )

    def sample(self, tasks: int, generator: torch.Generator) -> Tasks:
        """Draws a batch of tasks. Countries are drawn independently, so that one may be there twice.

        Args:
            tasks: how many.
            generator: the only source of chance; a generator on the CPU gives the same tasks on each device.

        Shapes: support x and y [tasks, shots, 1]; query x and y [tasks, queries, 1].

        Raises:
            ValueError: `tasks` is not a whole number of at least 1, or there is no generator.
        """
        drawn = self._draw(tasks, generator)
        if self.forecast:
            years = torch.arange(len(self._x)).expand(tasks, -1)
        else:
            unit = torch.rand(
                tasks, len(self._x), generator=generator, device=generator.device, dtype=torch.float64
            )
            years = unit.argsort(dim=1).cpu()
        x, y = self._x[years], self._y[drawn].gather(1, years)

        def part(start: int, count: int) -> tuple[Tensor, Tensor]:
            chosen = slice(start, start + count)
            return (
                x[:, chosen, None].to(self.device, self.dtype),
                y[:, chosen, None].to(self.device, self.dtype),
            )

        return {"support": part(0, self.shots), "query": part(self.shots, self.queries)}

    def countries(self, tasks: int, generator: torch.Generator) -> tuple[str, ...]:
        """Draws the names of the countries alone: those of the tasks that `sample` would draw from the same state of
        the generator.

        Raises:
            ValueError: `tasks` is not a whole number of at least 1, or there is no generator.
        """
        return tuple(self.names[int(index)] for index in self._draw(tasks, generator))

    def _draw(self, tasks: int, generator: torch.Generator) -> Tensor:
        check_count("tasks", tasks)
        check_generator(generator)
        return torch.randint(
            len(self.names), (tasks,), generator=generator, device=generator.device, dtype=torch.int64
        ).cpu()


def _gapminder() -> tuple[list[str], Tensor, Tensor]:
    """Names of the countries, years [12] and life expectancies [countries, 12], in float64."""
    try:
        import plotly.data

        table: Any = plotly.data.gapminder(return_type="pandas")
    except ImportError as error:
        raise not_installed("LifeExpectancy", "plotly, whose data it reads with pandas", "data") from error
    lives = table.pivot(index="country", columns="year", values="lifeExp")
    years = torch.tensor([float(year) for year in lives.columns], dtype=torch.float64)
    names = [str(country) for country in lives.index]
    return names, years, torch.tensor(lives.to_numpy().tolist(), dtype=torch.float64)
