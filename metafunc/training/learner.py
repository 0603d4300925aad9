"""What can be trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class Outcome(Protocol):
    """What a meta-step says of itself, such as :class:`metafunc.MetaStep`."""

    @property
    def loss(self) -> Tensor:
        """The outer loss before the update, without axes."""
        ...

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        """Further figures of the query sets by name, without axes."""
        ...


class Learner(Protocol):
    """Anything with these four methods can be trained and evaluated; :class:`metafunc.MetaOptimizer` has them."""

    def step(self, tasks: Any, /) -> Outcome:
        """One meta-step on a batch of tasks.

        Raises:
            metafunc.NotFiniteError: If its loss or gradient is not finite, so that nothing was changed. A run passes
                over such a step.
        """
        ...

    def evaluate(self, tasks: Any, /) -> Mapping[str, Tensor]:
        """Figures by name, each of shape [tasks], of the query sets after adaptation; nothing is changed."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on as if it had never stopped: tensors, numbers, strings and their containers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on where :meth:`state_dict` was taken."""
        ...
