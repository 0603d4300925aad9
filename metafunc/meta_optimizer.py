"""The drop-in for existing PyTorch code: meta-training around an ``nn.Module`` and a ``torch.optim`` optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metafunc import errors, options, tree
from metafunc.batching import Batching, Vmap, check_tensors, count, single
from metafunc.copying import deep_copy
from metafunc.dependence import dependencies
from metafunc.estimator import Estimator
from metafunc.estimators import Explicit
from metafunc.functional import Functional, Params, Randomness, arguments, functional
from metafunc.inner import Inner
from metafunc.metagrad import MetaGrad, meta_grad
from metafunc.norms import Buffers, by_policy
from metafunc.outer import MetaStep, OuterLoop, sets
from metafunc.outer_checks import check_learned, inner_problem
from metafunc.step_keys import with_step_keys
from metafunc.tree import Tree


class MetaOptimizer(OuterLoop):
    """Adaptation, meta-gradient, clipping and update for batches of tasks, around a user's module and optimizer.

    The module stays an ordinary module: its parameters are the meta-parameters, and no forward pass changes it.

    Args:
        module: Any ``nn.Module``.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, for support and query sets.
        optimizer: A ``torch.optim`` optimizer of the module's parameters.
        inner: From a problem to an inner problem: ``lambda p: mf.gradient_descent(**p, lr=0.01, steps=5)``.
        estimator: How the meta-gradient is made.
        tasks: How the tasks of a batch are run: ``Vmap()``, ``Vmap(chunk=...)`` or ``Loop()``, equal in result.
        scheduler: A learning-rate scheduler of ``optimizer``, stepped after it.
        clip: The largest norm of the meta-gradient that is left alone by :meth:`step`.
        metrics: Functions ``metric(outputs, targets) -> scalar`` by name, taken of the query sets.
        test_inner: The inner problem of :meth:`adapt` and :meth:`evaluate`, where it is another one than in training:
            more steps, as is customary. Default: ``inner``.
        adapt: What the inner loop adapts; see :func:`~metafunc.functional`.
        buffers: See :func:`~metafunc.functional`.
        randomness: See :func:`~metafunc.functional`.
        step_randomness: Whether dropout draws the ``"same"`` or ``"different"`` numbers in the inner steps of a task.
        autocast: See :func:`~metafunc.functional`.
        seed: Of the keys that dropout draws from.

    A learned hyperparameter is a parameter of the module that ``inner`` reads from ``theta``, by its name:
    ``net.register_parameter("log_lr", nn.Parameter(...))`` and ``lr=lambda theta: theta["log_lr"].exp()``, with
    ``adapt=`` naming the others.

    A batch of tasks is a dict with ``"support"`` and ``"query"``, or a pair of these; each is ``(inputs, targets)``
    with a leading axis of tasks. Or it is a list with such a dict for each task, without that axis; with
    ``tasks=Loop()`` these may differ in size.

    It can be pickled and copied if the functions it was given are defined at the top level of a module.

    In several processes, each has a meta-optimizer of the plain module and tasks of its own, and averages the gradients
    between :meth:`backward` and the optimizer's step; ``DistributedDataParallel`` and its like are refused.

    Raises:
        TypeError, ValueError: If an argument is of another kind, or the optimizer has other parameters than the
            module's.

    Example:
        >>> optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        >>> inner = lambda problem: mf.gradient_descent(**problem, lr=0.4, steps=5)
        >>> meta = mf.MetaOptimizer(net, F.cross_entropy, optimizer, inner, mf.Truncated(2))
        >>> for tasks in batches:
        ...     loss = meta.step(tasks).loss
        >>> classifier = meta.adapt((images, labels))
    """

    def __init__(
        self,
        module: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        optimizer: torch.optim.Optimizer,
        inner: Callable[[dict[str, Any]], Inner],
        estimator: Estimator = Explicit(),
        *,
        tasks: Batching = Vmap(),
        scheduler: Any = None,
        clip: float | None = None,
        metrics: Mapping[str, Callable[[Any, Any], Tensor]] | None = None,
        test_inner: Callable[[dict[str, Any]], Inner] | None = None,
        adapt: Any = None,
        buffers: Buffers | Mapping[str, Buffers] = "batch",
        randomness: Randomness = "error",
        step_randomness: Literal["same", "different"] = "same",
        autocast: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            locals(),
            module,
            optimizer,
            estimator=estimator,
            tasks=tasks,
            scheduler=scheduler,
            clip=clip,
            metrics=metrics,
            seed=seed,
            name="module",
        )
        self.model: Functional = functional(
            module, loss_fn, adapt=adapt, buffers=buffers, randomness=randomness, autocast=autocast
        )
        options.choice("step_randomness", step_randomness, "same", "different")
        keyed = step_randomness == "different" and randomness != "error"
        problem = self.model.problem
        problems = [inner_problem(inner, problem, "inner")]
        problems += [problems[0] if test_inner is None else inner_problem(test_inner, problem, "test_inner")]
        self.inner, test = (with_step_keys(p) if keyed else p for p in problems)
        self._step_randomness = step_randomness
        self._adapt = estimator(self.inner)
        self._test_adapt = estimator(test)
        self._checked = False
        self._meta_grad = meta_grad(self._outer, self._adapt, tasks=tasks, has_aux=True, with_theta=True)

    def step(self, tasks: Any) -> MetaStep:
        """One meta-step: gradients, clipping, and the update of the module's parameters.

        Raises:
            NotFiniteError: If the loss or the meta-gradient is not finite. No parameter, and nothing in the optimizer
                or the scheduler, was changed then, so that a loop may go on with the next batch.
        """
        self._clear()
        return self._update(self._add_gradient(tasks, 1.0), sets(tasks))

    def backward(self, tasks: Any, weight: float | Tensor = 1.0) -> MetaStep:
        """Add the meta-gradient to ``.grad`` of the module's parameters, and do nothing else.

        Clipping, accumulation, the reduction over processes, hooks and the update stay with the user's own loop, and
        so does the check that the gradient is finite.

        Args:
            tasks: A batch of tasks.
            weight: A factor of the gradient: ``1 / n`` to accumulate over ``n`` batches, or the scale of an AMP scaler.
        """
        found = self._add_gradient(tasks, weight)
        self.steps += 1
        return found

    def _add_gradient(self, tasks: Any, weight: float | Tensor) -> MetaStep:
        theta = self._theta
        support, keys, asked = self._data(tasks)
        self._check(theta, support)
        with torch.no_grad():
            result: MetaGrad = self._meta_grad(theta, support, *keys, asked)
        named = dict(self.model.module.named_parameters())
        for name, slope in result.grad.items():
            parameter, slope = named[name], weight * slope
            parameter.grad = slope if parameter.grad is None else parameter.grad + slope
        metrics = {name: value.mean() for name, value in result.aux.items()}
        return MetaStep(result.value, metrics, result.stats)

    def evaluate(self, tasks: Any) -> dict[str, Tensor]:
        """The outer loss (``"loss"``) and the metrics of every task after adaptation; nothing is changed.

        Args:
            tasks: A batch of tasks.

        Shapes:
            [tasks] each.
        """
        support, keys, asked = self._data(tasks)

        def one(theta: Params, support: Tree, keys: tuple[Tensor, ...], asked: Tree) -> tuple[Tree, Tree]:
            loss, metrics = self._outer(self._test_adapt(theta, support, *keys), theta, asked)
            return (), {"loss": loss, **metrics}

        with torch.no_grad():
            return self._tasks.map(one, self._theta, (support, keys, asked), count(support))[1]

    def adapt(self, support: Any) -> nn.Module:
        """A copy of the module, adapted to one task, for use without any graph.

        With ``buffers="task"`` its batch norms have the statistics of the support set as their running statistics, and
        it is in eval mode.

        Args:
            support: ``(inputs, targets)`` of one task, without an axis of tasks.
        """
        check_tensors(support)
        keys = self._keys(tree.map(lambda x: x[None], support))
        with torch.no_grad():
            phi: Params = self._test_adapt(self._theta, support, *single(keys, 0))
        adapted = deep_copy(self.model.module, "module")
        adapted.zero_grad()
        named = dict(adapted.named_parameters())
        for name, value in phi.items():
            named[name].data.copy_(value)
        if self.model.by_task:
            _take_statistics(
                adapted, [n for n, p in by_policy(adapted, self.model.buffers) if p == "task"], support[0]
            )
        return adapted

    @property
    def _theta(self) -> Params:
        """The meta-parameters, all that are adapted among them."""
        theta = self.model.theta
        missing = [name for name in self.model.adapted or () if name not in theta]
        if missing:
            raise errors.frozen_later(missing)
        return theta

    @property
    def _made(self) -> dict[str, Any]:
        model = self.model
        return {
            "estimator": repr(self.estimator),
            "inner": self.inner.name,
            "adapt": None if model.adapted is None else list(model.adapted),
            "buffers": dict(model.buffers),
            "randomness": model.randomness,
            "step_randomness": self._step_randomness,
            "autocast": None if model.autocast is None else str(model.autocast),
        }

    def _outer(self, phi: Params, theta: Params, query: Tree) -> tuple[Tensor, dict[str, Tensor]]:
        inputs, targets = query["query"]
        outputs = self.model.outputs({**theta, **phi}, inputs, *query["key"], like=query["like"][0])
        loss = self.model.loss_fn(outputs, targets)
        fixed = tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, outputs)
        return loss, {name: metric(fixed, targets) for name, metric in self._metrics.items()}

    def _data(self, tasks: Any) -> tuple[Tree, tuple[Tensor, ...], Tree]:
        """Support sets, keys, and what :meth:`_outer` is asked."""
        support, query = sets(tasks)
        count((support, query))
        keys = self._keys(support)
        # The set with whose statistics the query set is normalised, ``None`` for its own.
        like = support if self.model.by_task else (None,)
        return support, keys, {"query": query, "key": keys, "like": like}

    def _keys(self, support: Tree) -> tuple[Tensor, ...]:
        """The key of every task of this meta-step, if anything is random."""
        if self.model.randomness == "error":
            return ()
        tasks = count(support)
        device = next(x.device for x in tree.leaves(single(support, 0)) if isinstance(x, Tensor))
        draw = torch.Generator().manual_seed((self._seed * 1_000_003 + self.steps) % 2**63)
        keys = torch.randint(2**63 - 1, (tasks,), generator=draw)
        same = self.model.randomness == "same"
        return ((keys[:1].expand(tasks) if same else keys).to(device, non_blocking=True),)

    def _check(self, theta: Params, support: Tree) -> None:
        """Once: whether the inner loss depends on what is adapted, and on nothing that would get no gradient."""
        if self._checked:
            return
        task, key = single((support, self._keys(support)), 0)
        try:
            reached = dependencies(lambda p: self.model({**theta, **p}, task, *key), self.model.init(theta))
        except RuntimeError as error:
            # Not before: a module may move its inputs itself.
            homes = {p.device for p in theta.values()}
            strangers = [x for x in tree.leaves(task) if isinstance(x, Tensor) and x.device not in homes]
            if not strangers:
                raise
            raise errors.tasks_elsewhere(homes.pop(), strangers[0]) from error
        if not any(reached):
            raise errors.loss_without_parameters(list(self.model.init(theta)))
        check_learned(self.inner, self.inner.args(theta, (task, *key)))
        self._checked = True


def _take_statistics(module: nn.Module, norms: list[Any], inputs: Any) -> None:
    """Give the running statistics of these norms those of these inputs, and put the module into eval mode."""
    module.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    args, kwargs = arguments(inputs)
    with torch.no_grad():
        module(*args, **kwargs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
