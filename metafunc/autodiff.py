"""Typed derivatives on trees, and the work-arounds that single torch versions need.

``torch.func`` differentiates whole arguments and refuses integer tensors; these functions differentiate the
floating-point leaves of a tree that are asked for and carry the rest along.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import _guards as _torch_guards
from torch._functorch import pyfunctorch as _pyfunctorch
from torch.autograd import forward_ad

from metafunc import errors, tree
from metafunc.tree import Tree

Pull = Callable[[Tree], tuple[Tree, ...]]
"""From a cotangent of the outcome to one cotangent per argument, with ``None`` at leaves not differentiated."""

pyfunctorch: Any = _pyfunctorch
guards: Any = _torch_guards
_func: Any = torch.func
_functorch: Any = getattr(torch._C, "_functorch")  # noqa: B009  # pyright: ignore[reportPrivateUsage]


def _every_float(arg: Tree) -> Tree:
    return tree.map(tree.is_float, arg)


class _Selection:
    """The differentiated leaves of some arguments, and how to rebuild the arguments around other leaves."""

    def __init__(self, args: tuple[Tree, ...], needs: tuple[Tree, ...] | None) -> None:
        self._leaves = tree.leaves(args)
        self._spec = tree.structure(args)
        wanted = tree.leaves(needs if needs is not None else tuple(_every_float(a) for a in args))
        self._chosen = [
            i
            for i, (x, want) in enumerate(zip(self._leaves, wanted, strict=True))
            if want and tree.is_float(x)
        ]
        self.primals: tuple[Tensor, ...] = tuple(self._leaves[i] for i in self._chosen)

    def args(self, primals: Sequence[Tensor]) -> tuple[Tree, ...]:
        """The arguments with ``primals`` at the chosen leaves."""
        filled = list(self._leaves)
        for i, x in zip(self._chosen, primals, strict=True):
            filled[i] = x
        return tree.rebuild(self._spec, filled)

    def spread(self, values: Sequence[Any]) -> tuple[Tree, ...]:
        """Trees like the arguments with ``values`` at the chosen leaves and ``None`` elsewhere."""
        filled: list[Any] = [None] * len(self._leaves)
        for i, x in zip(self._chosen, values, strict=True):
            filled[i] = x
        return tree.rebuild(self._spec, filled)

    def gather(self, trees: tuple[Tree, ...]) -> tuple[Tensor, ...]:
        """The chosen leaves of trees like the arguments; a missing one is zero."""
        found = tree.leaves(trees)
        return tuple(
            torch.zeros_like(x) if found[i] is None else found[i]
            for i, x in zip(self._chosen, self.primals, strict=True)
        )


def grad(fn: Callable[..., Tensor], x: Tree, *rest: Tree) -> Tree:
    """The gradient of the scalar ``fn(x, *rest)`` in ``x``, a tree like ``x``."""
    return _func.grad(lambda y: fn(y, *rest))(x)


def vjp(fn: Callable[..., Tree], *args: Tree, needs: tuple[Tree, ...] | None = None) -> tuple[Tree, Pull]:
    """The outcome of ``fn(*args)`` and its pull-back (vector-Jacobian product), which may be called many times.

    Args:
        fn: A function of trees.
        args: Where to differentiate.
        needs: One tree of booleans per argument: which leaves to differentiate. Default: every floating one.

    Returns:
        ``(fn(*args), pull)``; the graph behind ``pull`` is kept, so that one linearisation serves many products.
    """
    chosen = _Selection(args, needs)
    if not chosen.primals:
        return fn(*args), lambda _: chosen.spread(())
    out, pull = _func.vjp(lambda *primals: fn(*chosen.args(primals)), *chosen.primals)
    return out, lambda cotangent: chosen.spread(pull(cotangent))


def jvp(fn: Callable[..., Tree], args: tuple[Tree, ...], tangents: tuple[Tree, ...]) -> tuple[Tree, Tree]:
    """The outcome of ``fn(*args)`` and its push-forward (Jacobian-vector product) along ``tangents``.

    ``None`` stands for a zero tangent. Some operators have no second derivative in forward mode (torch 2.13: mean
    ``mse_loss``, Huber, attention, LSTM); there the product is formed by reverse mode twice, at about twice the cost.
    """
    present = tree.map(lambda t: t is not None, tangents)
    chosen = _Selection(args, present)
    if not chosen.primals:
        out = fn(*args)
        return out, tree.zeros_like(out)
    along = chosen.gather(tangents)

    def on_primals(*primals: Tensor) -> Tree:
        return fn(*chosen.args(primals))

    try:
        return _func.jvp(on_primals, chosen.primals, along)
    except (NotImplementedError, RuntimeError) as error:
        if not _lacks_forward_rule(error):
            raise
        return _jvp_by_transposition(on_primals, chosen.primals, along)


def _lacks_forward_rule(error: Exception) -> bool:
    # "ZeroTensors are immutable" is what mean mse_loss says; a dual number of torch.autograd.forward_ad takes no other.
    marks = ("forward AD", "ZeroTensors are immutable", "Nested forward mode AD")
    return any(mark in str(error) for mark in marks)


def _jvp_by_transposition(
    fn: Callable[..., Tree], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tree, Tree]:
    # u -> pull(u) is linear with matrix J^T, so its own pull-back applies J.
    out, pull = _func.vjp(fn, *primals)
    _, transpose = _func.vjp(pull, tree.zeros_like(out))
    return out, transpose(tangents)[0]


def vmap(fn: Callable[..., Tree], in_dims: Any = 0, randomness: str = "same") -> Callable[..., Tree]:
    """``torch.func.vmap`` for a function whose outcome may have other leaves than tensors, which stay what they are."""

    def mapped(*args: Tree) -> Tree:
        seen: list[tree.Skeleton] = []

        def tensors_only(*args: Tree) -> list[Tensor]:
            tensors, skeleton = tree.take_tensors(fn(*args))
            seen[:] = [skeleton]
            return tensors

        tensors = _func.vmap(tensors_only, in_dims=in_dims, randomness=randomness)(*args)
        return seen[0].fill(map(_own_memory, tensors))

    return mapped


def _own_memory(x: Tensor) -> Tensor:
    """What does not depend on the map comes out repeated without copies, about which dual numbers raise."""
    return x.clone() if 0 in x.stride() and x.numel() > 1 else x


def is_active() -> bool:
    """Whether anything that is computed now could be differentiated or mapped."""
    return torch.is_grad_enabled() or bool(_levels()[0]) or forward_mode_active()


def is_wrapped(x: Tensor) -> bool:
    """Whether the tensor belongs to a transform that has not ended."""
    return _functorch.maybe_get_level(x) not in (None, -1, 0) and _functorch.unwrap_if_dead(x) is x


def unwrappings(x: Tensor) -> Generator[Tensor]:
    """What the wrappers of transforms around a tensor hold, from the outermost wrapper inwards."""
    while _functorch.maybe_get_level(x) not in (None, -1, 0):
        x = _functorch.get_unwrapped(x)
        yield x


def depends(x: Any) -> bool:
    """Whether a value was computed from a tensor that is being differentiated, at any level.

    :func:`is_differentiated` says so of every tensor that a derivative has wrapped, constants included.
    """
    if not isinstance(x, Tensor):
        return False
    return x.requires_grad or any(y.requires_grad for y in unwrappings(x)) or has_tangent(x)


def is_traced() -> bool:
    """Whether something like ``torch.compile`` traces, so that tensors have no values."""
    modes: Any = torch._C  # pyright: ignore[reportPrivateUsage]
    return guards.TracingContext.try_get() is not None or any(
        modes._get_dispatch_mode(key) is not None
        for key in (modes._TorchDispatchModeKey.FAKE, modes._TorchDispatchModeKey.PROXY)
    )


def outside() -> Any:
    """A context outside of all transforms, for plain tensors that have nothing to do with them."""
    return pyfunctorch.temporarily_clear_interpreter_stack()


def is_differentiated(x: Any) -> bool:
    """Whether a derivative of ``x`` is being taken: by autograd, or by an active ``torch.func`` transform."""
    if not isinstance(x, Tensor):
        return False
    return x.requires_grad or _is_tracked(x) or base(x).requires_grad


def plain_is_right(args: Tree) -> bool:
    """Whether torch's own second derivatives can be relied on under the transforms that are active.

    They cannot where a ``vmap`` is inside a derivative: there torch 2.13 is silently wrong about training-mode
    ``batch_norm`` and ``instance_norm``. Nor can they in forward mode, for which operators such as mean ``mse_loss``
    have no second derivative (see :func:`jvp`).
    """
    if forward_mode_active():
        return False
    levels, kinds = _levels()
    if True not in kinds:
        return True
    if False in kinds[: len(kinds) - kinds[::-1].index(True)]:
        return False  # a derivative is outside the innermost vmap
    reverse = [level for level, is_map in zip(levels, kinds, strict=True) if not is_map]
    recording = reverse[0].prev_grad_mode() if reverse else torch.is_grad_enabled()
    return not (recording and any(base(x).requires_grad for x in tree.leaves(args) if isinstance(x, Tensor)))


def is_mapping() -> bool:
    """Whether a ``vmap`` is active."""
    return any(_levels()[1])


def _levels() -> tuple[list[Any], list[bool]]:
    """The active transforms, outermost first, and whether each is a ``vmap``."""
    levels: list[Any] = pyfunctorch.retrieve_all_functorch_interpreters()
    return levels, ["Vmap" in str(level.key()) for level in levels]


def is_recording(args: Tree) -> bool:
    """Whether what is computed from ``args`` now may be differentiated later."""
    if forward_mode_active():
        return True
    return any(
        _is_tracked(x) or (torch.is_grad_enabled() and base(x).requires_grad)
        for x in tree.leaves(args)
        if isinstance(x, Tensor)
    )


def _is_tracked(x: Tensor) -> bool:
    while (level := _functorch.maybe_get_level(x)) is not None and level > 0:
        if _functorch.is_gradtrackingtensor(x):
            return True
        x = _functorch.get_unwrapped(x)
    return False


def base(x: Tensor) -> Tensor:
    """The tensor within all wrappers of transforms."""
    while _functorch.maybe_get_level(x) not in (None, -1, 0):
        x = _functorch.get_unwrapped(x)
    return x


def without_tangents(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors without the tangents of the innermost forward-mode level."""
    return tuple(forward_ad.unpack_dual(x, level=0).primal for x in tensors)


def without_dead_levels(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors without wrappers of transforms that have ended.

    What torch saved inside a ``vjp`` is still wrapped when its pull-back is called later. Operators see through such
    wrappers; a new transform does not.
    """
    return tuple(_functorch.unwrap_if_dead(x) for x in tensors)


@contextmanager
def trial(args: Tree) -> Generator[Tree]:
    """Outside all transforms, with ``args`` as plain tensors: one example of whatever is mapped.

    For finding out by trial which derivatives a model has. What it draws of random numbers is given back.
    """
    devices = {x.device for x in tree.leaves(args) if isinstance(x, Tensor) and x.is_cuda}
    with pyfunctorch.temporarily_clear_interpreter_stack(), torch.random.fork_rng(list(devices)):
        yield tree.map(_example, args)


def _example(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    mapped: list[int] = []
    while _functorch.maybe_get_level(x) not in (None, -1, 0):
        mapped += [_functorch.maybe_get_bdim(x)] if _functorch.is_batchedtensor(x) else []
        x = _functorch.get_unwrapped(x)
    for axis in reversed(mapped):  # an outer axis counts what is left once the inner ones are gone
        x = x.select(axis, 0)
    return forward_ad.unpack_dual(x, level=0).primal.detach() if forward_mode_active() else x.detach()


def all_true(flag: Tensor) -> bool:
    """Whether a condition is known to hold for every task of the batches that are being mapped.

    It is not known while ``torch.compile`` traces, when there are no values.
    """
    values = plain_values(flag)
    return values is not None and all(values)


def plain_values(x: Tensor) -> list[Any] | None:
    """What is in a tensor over all tasks of the batches that are being mapped; ``None`` while ``torch.compile`` traces,
    when there are no values."""
    plain: Any = base(x)
    return None if guards.detect_fake_mode(plain) is not None else plain.flatten().tolist()


def forward_mode_active() -> bool:
    """Whether a forward-mode derivative is being taken."""
    module: Any = forward_ad
    if module._current_level >= 0:
        return True
    # What torch.compile has traced enters the level without telling that module.
    return any("Jvp" in str(level.key()) for level in _levels()[0])


def has_tangent(args: Tree) -> bool:
    """Whether the innermost forward-mode derivative is one along some of ``args``."""
    return forward_mode_active() and any(_has_tangent(x) for x in tree.leaves(args) if isinstance(x, Tensor))


def _has_tangent(x: Tensor) -> bool:
    while _functorch.is_batchedtensor(x):
        x = _functorch.get_unwrapped(x)
    return forward_ad.unpack_dual(x, level=0).tangent is not None


def forward_mode_enabled() -> Any:
    """A context in which the outer levels of forward mode stay alive.

    torch runs the ``jvp`` of an ``autograd.Function`` with all forward mode switched off, which loses the tangents of
    the outer levels and makes forward-over-forward silently wrong.
    """
    return forward_ad._set_fwd_grad_enabled(True)  # pyright: ignore[reportPrivateUsage]


def opaque_to_compiler(fn: Callable[..., Any], constant: type) -> Callable[..., Any]:
    """``fn`` as one node that ``torch.compile`` does not look into; instances of ``constant`` pass as constants."""
    dynamo: Any = torch._dynamo  # pyright: ignore[reportPrivateUsage]
    if not hasattr(dynamo, "nonstrict_trace"):

        def refuse(*_: Any) -> Any:
            raise errors.no_compile(torch.__version__)

        return refuse
    tree.register_constant(constant)
    return dynamo.nonstrict_trace(fn)
