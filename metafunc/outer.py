"""What every outer loop does: it takes batches of tasks, and turns gradients into an update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metafunc import errors, options, tree
from metafunc.rule import Stats
from metafunc.tree import Tree


def sets(tasks: Any) -> tuple[Tree, Tree]:
    """Support and query of a batch of tasks: a mapping with these names, or a pair.

    Raises:
        ValueError: If it is neither.
    """
    given: Any = tasks
    if isinstance(tasks, dict):
        if not {"support", "query"} <= set(given):
            raise errors.no_sets(f"a mapping with {sorted(map(str, given))}")
        return given["support"], given["query"]
    if not isinstance(tasks, tuple | list) or len(given) != 2:
        raise errors.no_sets(errors.describe(given))
    return given[0], given[1]


def count(support: Tree) -> int:
    """How many tasks there are in a batch of support sets."""
    return next(len(x) for x in tree.leaves(support) if isinstance(x, Tensor))


class MetaStep(NamedTuple):
    """What a meta-step met.

    Attributes:
        loss: The mean outer loss of the tasks, before the update.
        metrics: The mean of every metric on the query sets.
        stats: One figure a task, as in :class:`~metafunc.MetaGrad`.
        grad_norm: The norm of the meta-gradient, before clipping; ``None`` from :meth:`MetaOptimizer.backward`.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    stats: Stats
    grad_norm: Tensor | None = None


class OuterLoop(ABC):
    """What is trained, by which optimizer, and how far that has come.

    Args:
        module: Its parameters are the meta-parameters.
        optimizer: A ``torch.optim`` optimizer of them.
        scheduler: Is stepped after it, if given.
        clip: The largest norm of the meta-gradient that is left alone.
        seed: Of every draw.
        name: What the user calls the module.
    """

    def __init__(
        self, module: nn.Module, optimizer: Any, scheduler: Any, clip: float | None, seed: int, name: str
    ) -> None:
        expected = f"a torch.optim optimizer of the {name}'s parameters"
        options.instance("optimizer", optimizer, torch.optim.Optimizer, expected)
        options.positive("clip", clip, 10.0, optional=True)
        options.integer("seed", seed, 0, low=0)
        own = {id(p) for p in module.parameters()}
        given = [id(p) for group in optimizer.param_groups for p in group["params"]]
        strangers = sum(p not in own for p in given)
        if strangers:
            raise errors.parameters_of_another(name, strangers, len(given))
        self.optimizer, self.scheduler, self.clip = optimizer, scheduler, clip
        self.steps = 0
        self._module, self._seed = module, seed

    @property
    @abstractmethod
    def _made_by(self) -> str:
        """The estimator and the inner problem."""

    def _update(self) -> Tensor:
        """Clips the gradients, takes the step, and says how long the gradient was before."""
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        size = torch.nn.utils.clip_grad_norm_(params, float("inf") if self.clip is None else self.clip)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        return size

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to go on as if it had never stopped, torch's random state included."""
        return {
            "module": self._module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "steps": self.steps,
            "seed": self._seed,
            "random": torch.get_rng_state(),
            "made by": self._made_by,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ValueError: If the state is that of another estimator or inner problem.
        """
        if state.get("made by") != self._made_by:
            raise errors.state_of_another(self._made_by, state.get("made by"))
        self._module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.steps, self._seed = state["steps"], state["seed"]
        torch.set_rng_state(state["random"].cpu())
