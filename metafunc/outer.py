"""What every outer loop does: it takes batches of tasks, and turns gradients into an update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from metafunc import errors, options, tree
from metafunc.batching import Batching, gathered, is_list_of_tasks, single
from metafunc.estimator import Estimator
from metafunc.outer_checks import built, check_metrics, check_module, check_optimizer, check_scheduler
from metafunc.rule import Stats
from metafunc.tree import Tree


def sets(tasks: Any) -> tuple[Tree, Tree]:
    """Support and query of a batch of tasks: a mapping with these names, a pair, or a list of mappings, one a task.

    Raises:
        ValueError: If it is none of these.
    """
    given: Any = tasks
    if is_list_of_tasks(given):
        listed = gathered(given)
        return listed["support"], listed["query"]
    if isinstance(tasks, Mapping):
        if not {"support", "query"} <= set(given):
            raise errors.no_sets(f"a mapping with {sorted(map(str, given))}")
        return given["support"], given["query"]
    if not isinstance(tasks, tuple | list) or len(given) != 2:
        raise errors.no_sets(errors.describe(given))
    return given[0], given[1]


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

    It can be pickled and copied where its arguments can: the copy is built from these anew.

    Args:
        given: The arguments that the loop itself was built with, by name; see :meth:`__reduce__`.
        module: Its parameters are the meta-parameters.
        optimizer: A ``torch.optim`` optimizer of them.
        estimator: How the meta-gradient is made.
        tasks: How the tasks of a batch are run.
        scheduler: Is stepped after the optimizer, if given.
        clip: The largest norm of the meta-gradient that is left alone.
        metrics: Figures of the query sets by name.
        seed: Of every draw.
        name: What the user calls the module.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        module: nn.Module,
        optimizer: Any,
        *,
        estimator: Estimator,
        tasks: Batching,
        scheduler: Any,
        clip: float | None,
        metrics: Mapping[str, Callable[[Any, Any], Tensor]] | None,
        seed: int,
        name: str,
    ) -> None:
        check_module(module, name)
        check_optimizer(optimizer, module, name)
        check_scheduler(scheduler, optimizer)
        options.instance(
            "estimator", estimator, Estimator, "an estimator such as mf.Explicit() or mf.Binomial(order=2)"
        )
        options.instance("tasks", tasks, Batching, "Vmap(), Vmap(chunk=...) or Loop()")
        options.positive("clip", clip, 10.0, optional=True)
        options.integer("seed", seed, 0, low=0)
        self.optimizer, self.scheduler, self.clip = optimizer, scheduler, clip
        self.estimator = estimator
        self.steps = 0
        self._module, self._seed, self._tasks = module, int(seed), tasks
        self._metrics = check_metrics(metrics)
        self._given = {key: value for key, value in given.items() if key not in ("self", "__class__")}
        self._options = built(optimizer, scheduler)

    @property
    @abstractmethod
    def _made(self) -> dict[str, Any]:
        """The estimator, the inner problem, and what else a gradient depends on, as plain values."""

    def _update(self, found: MetaStep, data: Tree) -> MetaStep:
        """Clips the gradients, takes the step, and says how long the gradient was before.

        Raises:
            NotFiniteError: If loss or gradient are not finite. Nothing was changed then.
        """
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        size = torch.nn.utils.clip_grad_norm_(params, float("inf") if self.clip is None else self.clip)
        if not (torch.isfinite(size) & torch.isfinite(found.loss)):  # one flag: the host waits for a GPU once
            self._clear()
            finite = found.stats["loss"].isfinite()
            tasks = range(len(finite))
            raise errors.not_finite(
                len(finite),
                data=[i for i in tasks if not _is_finite(single(data, i))],
                losses=[i for i in tasks if not finite[i]],
            )
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.steps += 1
        return found._replace(grad_norm=size)

    def _clear(self) -> None:
        """Forgets all gradients, those of parameters that the optimizer does not have too."""
        self.optimizer.zero_grad()
        self._module.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to go on as if it had never stopped, torch's random state included."""
        return {
            "module": self._module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "steps": self.steps,
            "random": torch.get_rng_state(),
            "made": self._made_with,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ValueError: If it is no such state, or was taken of a loop with another module, optimizer, scheduler,
                estimator, inner problem, clip or seed. Nothing was changed then.
        """
        own = self.state_dict()
        if not _is_like(own, state):
            raise errors.not_a_state(own, state)
        ours, theirs = own["made"], state["made"]
        differing = {
            name: (ours[name], theirs[name]) for name in ours if theirs.get(name, ours[name]) != ours[name]
        }
        if differing:
            raise errors.state_of_another(differing)
        ours, theirs = ({name: list(x.shape) for name, x in made["module"].items()} for made in (own, state))
        if ours != theirs:
            raise errors.state_of_another_module(ours, theirs)
        # What can refuse a state comes first, so that none is taken by half.
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self._module.load_state_dict(state["module"])
        self.steps = state["steps"]
        torch.set_rng_state(state["random"].cpu())

    @property
    def _made_with(self) -> dict[str, str]:
        made = {**self._made, **self._options, "clip": self.clip, "seed": self._seed}
        return {name: value if isinstance(value, str) else repr(value) for name, value in made.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return _built_again, (type(self), self._given, self.steps)


def _built_again(kind: Callable[..., OuterLoop], given: dict[str, Any], steps: int) -> OuterLoop:
    loop = kind(**given)
    loop.steps = steps
    return loop


def _is_like(own: Mapping[str, Any], state: Any) -> bool:
    """Whether a state has the entries of our own, each of its kind; a scheduler may be there or not."""
    if not isinstance(state, Mapping) or set(cast("Any", state)) != set(own):
        return False
    given = cast("Mapping[str, Any]", state)
    kinds = {"module": Mapping, "optimizer": Mapping, "made": Mapping, "steps": int, "random": Tensor}
    if not all(isinstance(given[name], kind) for name, kind in kinds.items()):
        return False
    random = given["random"]
    tensors = all(isinstance(x, Tensor) for x in given["module"].values())
    return tensors and (random.dtype, random.shape) == (own["random"].dtype, own["random"].shape)


def _is_finite(data: Tree) -> bool:
    return all(bool(leaf.isfinite().all()) for leaf in tree.leaves(data) if tree.is_float(leaf))
