"""From an ``nn.Module`` as it is to the ``loss(params, batch)`` that inner problems are made of."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from metafunc import autodiff, errors, options, tree
from metafunc.generators import Snapshot
from metafunc.norms import Buffers, InFull, Recording, Replaying, normalising, policies
from metafunc.randomness import Keyed, name_of_what_draws
from metafunc.wrapped import refuse_wrapped

Params = dict[str, Tensor]
Randomness = Literal["error", "same", "different"]


def functional(
    module: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    *,
    adapt: nn.Module | str | Iterable[nn.Module | str] | None = None,
    buffers: Buffers | Mapping[str, Buffers] = "batch",
    randomness: Randomness = "error",
    autocast: torch.dtype | None = None,
) -> Functional:
    """A module and a loss as functions of parameters, for inner problems; the module itself is never changed.

    Attention is computed in its plain form. Recurrent layers, which torch cannot map, are for one task at a time
    (``tasks=Loop()``).

    Args:
        module: Any module. Parameters that do not require a gradient stay what they are in the module; tied ones are
            one parameter.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``.
        adapt: What the inner loop adapts: parameters by name, or by a part of the name (``"head"`` for
            ``"head.weight"``), or submodules. The rest is shared by all tasks and learned by the outer loop alone
            (ANIL). Default: everything that requires a gradient.
        buffers: How norms with running statistics normalise.

            ``"batch"``: with the statistics of the batch at hand, anew in every inner step and in the outer loss;
            running statistics are neither used nor updated.

            ``"frozen"``: with the running statistics as they are in the module.

            ``"task"``: in the inner loss with those of the batch, and in the outer loss of
            :class:`~metafunc.MetaOptimizer` with those of the task's support set under the adapted parameters, so that
            the answers to a query set do not depend on what else is in it.

            A dict gives each part of the module its own, by the part's name: ``{"stem": "frozen"}``; the rest is
            ``"batch"``, or what stands under ``""``. (``"batch"`` and ``"task"`` do not mix.)
        randomness: ``"error"``: dropout is refused. ``"same"``, ``"different"``: it draws from a key (see
            :meth:`Functional.__call__`), the same one or a different one for every task, and the same in every inner
            step (:func:`~metafunc.with_step_keys` makes the steps differ). The mask is a function of the key, so that
            looped, mapped, chunked and recomputed runs are equal. That goes for every kind of dropout and for that of
            attention; a module that draws other random numbers is refused.
        autocast: Mixed precision: the module runs under ``torch.autocast`` in this dtype, usually ``torch.bfloat16``,
            which needs no scaling of the loss. Its outputs are turned back, so that the loss, the inner steps and the
            meta-gradient are in the precision of the parameters. (A ``torch.autocast`` around a whole meta-step would
            cover the backward passes in it too, which torch does not support.)

    Raises:
        TypeError, ValueError: If there is nothing to adapt, a name is unknown, or an option is none.

    Example:
        >>> model = mf.functional(net, F.cross_entropy)
        >>> adapt = mf.Explicit()(mf.gradient_descent(**model.problem, lr=0.01, steps=5))
        >>> phi = adapt(model.theta, (images, labels))
    """
    options.instance("module", module, nn.Module, "an nn.Module")
    refuse_wrapped(module, "module")
    options.function("loss_fn", loss_fn, "loss_fn(outputs, targets) -> scalar")
    options.choice("randomness", randomness, "error", "same", "different")
    options.instance(
        "buffers",
        buffers,
        (str, Mapping),
        "'batch', 'frozen' or 'task', or a dict of these by the names of modules",
    )
    if autocast is not None and autocast not in (torch.bfloat16, torch.float16):
        raise errors.out_of_range(
            "autocast", autocast, "torch.bfloat16, torch.float16 or None", "e.g. bfloat16"
        )
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    if not trained:
        raise errors.nothing_to_train(type(module).__name__)
    chosen = None if adapt is None else _chosen(module, trained, adapt)
    return Functional(module, loss_fn, chosen, policies(module, buffers), randomness, autocast)


@dataclass(frozen=True, slots=True, eq=False)
class Functional:
    """A module and a loss as functions; made by :func:`functional`.

    Attributes:
        module: The user's module.
        loss_fn: From outputs and targets to the loss.
        adapted: The names of the parameters that the inner loop adapts; ``None`` for all.
        buffers: The policies by the names of modules; see :func:`functional`.
        randomness: See :func:`functional`.
        autocast: See :func:`functional`.
    """

    module: nn.Module
    loss_fn: Callable[[Any, Any], Tensor]
    adapted: tuple[str, ...] | None
    buffers: dict[str, Buffers]
    randomness: Randomness
    autocast: torch.dtype | None

    @property
    def theta(self) -> Params:
        """The module's parameters that require a gradient, by name, detached; they share its memory."""
        return {name: p.detach() for name, p in self.module.named_parameters() if p.requires_grad}

    @property
    def by_task(self) -> bool:
        """Whether norms take a task's query set by the statistics of its support set."""
        return "task" in self.buffers.values()

    @property
    def problem(self) -> dict[str, Any]:
        """The arguments that say what an inner solver minimises: ``gradient_descent(**model.problem, ...)``."""
        if self.adapted is None:
            return {"loss": self}
        return {"objective": self.objective, "init": self.init}

    def init(self, theta: Mapping[str, Tensor]) -> Params:
        """The part of ``theta`` that is adapted."""
        return dict(theta) if self.adapted is None else {name: theta[name] for name in self.adapted}

    def objective(self, phi: Params, theta: Params, batch: Any, key: Tensor | None = None) -> Tensor:
        """The loss with ``phi`` in the place of its part of ``theta``."""
        return self({**theta, **phi}, batch, key)

    def __call__(self, params: Params, batch: Any, key: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            params: Parameters by name; those that are missing are the module's own.
            batch: ``(inputs, targets)``. Inputs are a tensor, a tuple of positional arguments or a dict of keyword
                arguments of the module.
            key: An integer tensor without axes, from which dropout draws.

        Raises:
            ValueError: If the batch is no such pair, dropout has no key, or the module writes to a buffer.
        """
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise errors.not_a_batch(batch)
        return self.loss_fn(self.outputs(params, batch[0], key), batch[1])

    def outputs(self, params: Params, inputs: Any, key: Tensor | None = None, like: Any = None) -> Any:
        """What the module makes of ``inputs`` with these parameters.

        Args:
            params: As for a call.
            inputs: As for a call.
            key: As for a call.
            like: Other inputs, whose statistics the batch norms use in place of those of ``inputs``.
        """
        if like is None:
            return self._run(params, inputs, key, nullcontext())
        recording = Recording()
        self._run(params, like, key, recording)
        return self._run(params, inputs, key, Replaying(recording.found))

    def _run(self, params: Params, inputs: Any, key: Tensor | None, norms: Any) -> Any:
        args, kwargs = arguments(inputs)
        recurrent = [m for m in self.module.modules() if isinstance(m, nn.RNNBase)]
        if recurrent and autodiff.is_mapping():
            raise errors.recurrent_under_vmap(type(recurrent[0]).__name__)
        before = {name: _version(b) for name, b in self.module.named_buffers()}
        keyed = Keyed(None if self.randomness == "error" else key)

        def run() -> Any:
            # Fused attention has no second derivative and no batching rule.
            with (
                normalising(self.module, self.buffers),
                norms,
                keyed,
                sdpa_kernel(SDPBackend.MATH),
                self._precision(),
            ):
                return functional_call(self.module, dict(params), args, kwargs)

        found = self._without_draws(run)
        written = [name for name, b in self.module.named_buffers() if _version(b) != before[name]]
        if written:
            raise errors.buffer_written(written[0])
        return found if self.autocast is None else tree.map(self._turned_back, found)

    def _without_draws(self, run: Callable[[], Any]) -> Any:
        """``run()``, refused if it draws from torch's generators: mapped and recomputed runs would draw anew."""
        if autodiff.is_traced():
            return run()
        device = next(self.module.parameters()).device
        snapshot = Snapshot({torch.device("cpu"), device})
        try:
            found = run()
        except RuntimeError as error:
            if "randomness" not in str(error):  # the words of torch.func.vmap, which refuses as well
                raise
            raise errors.not_by_key(name_of_what_draws(run, device)) from error
        if snapshot.moved():
            snapshot.restore()
            name = name_of_what_draws(run, device)
            snapshot.restore()
            raise errors.not_by_key(name)
        return found

    @contextmanager
    def _precision(self) -> Generator[None]:
        if self.autocast is None:
            yield
            return
        device = next(self.module.parameters()).device.type
        # What torch has cast already it would take from its cache, without the derivative of this call.
        with torch.autocast(device, dtype=self.autocast, cache_enabled=False), InFull():
            yield

    def _turned_back(self, output: Any) -> Any:
        return output.float() if isinstance(output, Tensor) and output.dtype == self.autocast else output


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch's inputs as the positional and the keyword arguments of a module."""
    given: Any = inputs
    if isinstance(inputs, Mapping):
        return (), {**given}
    return (tuple(given) if isinstance(inputs, tuple | list) else (given,)), {}


def _version(buffer: Tensor) -> int:
    return buffer._version


def _chosen(module: nn.Module, trained: list[str], adapt: Any) -> tuple[str, ...]:
    """The names of the parameters that are chosen. A tied one has several names, of which torch lists the first."""
    options.instance("adapt", adapt, (nn.Module, str, Iterable), "names of parameters, or submodules")
    wanted = [adapt] if isinstance(adapt, nn.Module | str) else list(adapt)
    every = list(module.named_parameters(remove_duplicate=False))
    chosen: set[int] = set()
    for part in wanted:
        if isinstance(part, nn.Module):
            inside = {id(p) for p in part.parameters()}
        else:
            inside = {id(p) for name, p in every if name == part or name.startswith(f"{part}.")}
        found = {id(p) for name, p in every if id(p) in inside and name in trained}
        if not found:
            raise errors.nothing_by_that_name(part if isinstance(part, str) else type(part).__name__, trained)
        chosen |= found
    return tuple(name for name, p in module.named_parameters() if id(p) in chosen)
