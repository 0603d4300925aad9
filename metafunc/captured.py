"""Tensors that a function reaches on the side, by value: they are made arguments, so that derivatives flow to them.

A derivative rule sees its arguments alone. But a loss may use a module that it closes over, a tensor in a dict, the
``self`` of a bound method, a global: whatever holds it, it is an operand of some operator. So the operators are
watched: what is no argument and has come out of no operator has been captured. If it is being differentiated or mapped,
it becomes an argument (closure conversion), and whenever the function is called, the operators get that argument in
place of the captured tensor.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from metafunc import autodiff, errors, rule, tree
from metafunc.generators import Snapshot, undisturbed
from metafunc.tree import Tree

T = TypeVar("T")


class Held:
    """The captured tensors as the user's functions know them; a leaf of the arguments that no operation looks into."""

    __slots__ = ("draws", "inside", "originals", "recording", "watched")

    def __init__(self, originals: Sequence[Tensor], watching: bool, draws: Snapshot | None = None) -> None:
        self.originals = tuple(originals)
        self.draws = draws  # where the generators stand at every evaluation, if that matters
        self.recording = torch.is_grad_enabled()
        self.inside = False  # of one of the functions, whose operands are seen to; it may call others of them
        self.watched: set[int] | None = set() if watching else None

    def watch(self, fn: object) -> bool:
        """Whether to look at what ``fn`` reaches: once for every function in a call."""
        if self.watched is None or id(fn) in self.watched:
            return False
        self.watched.add(id(fn))
        return True


Captured: TypeAlias = tuple[Any, ...]
"""A :class:`Held` and, for each of its tensors, what stands for that now; empty where nothing has to be seen to."""


def drawing_from(captured: Captured, snapshot: Snapshot) -> Captured:
    """The same, for functions that draw what was drawn after the snapshot."""
    held, *values = captured
    return Held(held.originals, False, snapshot), *values


class Uncaptured(Exception):  # noqa: N818  (it never leaves the package)
    """A function has met a captured tensor that is differentiated or mapped and is no argument yet."""

    def __init__(self, held: Held) -> None:
        super().__init__("a captured tensor has not been made an argument")
        self.held = held


def call(captured: Captured, fn: Callable[..., Tree], args: tuple[Tree, ...], known_as: object) -> Tree:
    """``fn(*args)``, with the arguments in place of the tensors that it captured.

    Args:
        captured: Not empty.
        fn: The function.
        args: Its arguments.
        known_as: Whose operands are looked at once in a call of :meth:`Closure.run`.

    Raises:
        Uncaptured: If it reaches another captured tensor that had to be an argument.
    """
    held: Held = captured[0]
    if held.draws is not None:
        held.draws.restore()
    watch = held.watch(known_as)
    if held.inside or not (watch or held.originals):
        return fn(*args)

    def found(_: Tensor) -> None:
        raise Uncaptured(held)

    swap = dict(zip(map(id, held.originals), captured[1:], strict=True))
    with _Operands(swap, _tensors(args) if watch else None, held.recording, found, held) as operands:
        return operands.returned(fn(*args))


@contextmanager
def refusing(args: Tree) -> Generator[None]:
    """Within it, while ``torch.compile`` traces, a captured tensor that requires a gradient is refused."""

    def found(x: Tensor) -> None:
        if type(autodiff.base(x)) in (Tensor, torch.nn.Parameter):  # what is traced is of another type
            raise errors.captured_in_compiled(x)

    with _Operands({}, _tensors(args), True, found):
        yield


class Closure:
    """What some functions have captured, from one call to the next."""

    __slots__ = ("_refs", "_seen", "_watching")

    def __init__(self, seen: bool = False) -> None:
        self._refs: list[weakref.ref[Tensor]] = []
        self._seen = seen
        self._watching = True

    def run(
        self,
        fn: Callable[[Captured], T],
        touch: Callable[[Tree], Tree],
        args: Tree,
        name: str,
        unseen: bool = False,
    ) -> T:
        """``fn(captured)``, and once more if it met a captured tensor that was not known.

        Args:
            fn: Calls the functions, each by :func:`call`.
            touch: Calls all of them once at some arguments, and returns what they return.
            args: The arguments.
            name: What errors call the functions.
            unseen: Whether ``fn`` does not call all of the functions itself, so that they have to be looked at before.
        """
        if torch.compiler.is_compiling():
            return fn(())
        if not autodiff.is_active():
            return fn((Held((), False),))
        for attempt in count():
            if unseen or not self._seen or not self._watching:
                self._refs, self._seen = [weakref.ref(x) for x in look(touch, args, name)], True
            captured = self._captured()
            try:
                return fn(captured)
            except Uncaptured as met:
                if met.held is not captured[0]:
                    raise
                # The second time it is something that the function makes itself, in a way that torch shows to nobody.
                # Then what happens during the call says nothing, and every call has to look before.
                self._seen, self._watching = False, attempt == 0
            finally:
                captured[0].watched = None  # a pull-back comes too late to make anything an argument
        raise AssertionError  # what is not watched is not met

    def _captured(self) -> Captured:
        recording = torch.is_grad_enabled()
        alive = [x for x in self._alive() if _is_followed(x, recording)]
        # Views, since these tensors may have been captured by a function around this one, too.
        return Held(alive, self._watching), *(x.view_as(x) for x in alive)

    def _alive(self) -> list[Tensor]:
        return [x for ref in self._refs if (x := ref()) is not None]


def look(touch: Callable[[Tree], Tree], args: Tree, name: str) -> list[Tensor]:
    """The captured tensors that are differentiated or mapped; raises if that is not all of it.

    Args:
        touch: Calls functions at some arguments, and returns what they return.
        args: The arguments.
        name: What errors call the functions.
    """
    found: list[Tensor] = []
    at = tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, args)
    with undisturbed(args):
        with _Operands({}, _tensors(at), torch.is_grad_enabled(), found.append) as operands:
            out = operands.returned(touch(at))
        if found:
            with _Operands({id(x): x.detach() for x in found}, None, False, found.append) as operands:
                out = operands.returned(touch(at))
    if any(autodiff.depends(x) for x in tree.leaves(out)):
        raise errors.captured(name)
    return found


def _tensors(args: Tree) -> list[Tensor]:
    return [x for x in tree.leaves(args) if isinstance(x, Tensor)]


def vmap(
    fn: Callable[..., Tree], in_dims: tuple[Tree, ...], size: int, randomness: str
) -> Callable[..., Tree]:
    """:func:`metafunc.rule.vmap` for a function that may have captured tensors that are differentiated."""

    def mapped(*args: Tree) -> Tree:
        if not autodiff.is_recording(args):
            return rule.vmap(fn, in_dims, size, randomness)(*args)

        def bound(captured: Captured, *args: Tree) -> Tree:
            return call(captured, fn, args, fn) if captured else fn(*args)

        def run(captured: Captured) -> Tree:
            dims = (tree.map(lambda _: None, captured), *in_dims)
            return rule.vmap(bound, dims, size, randomness)(captured, *args)

        return Closure(seen=True).run(run, lambda a: _first(fn, a, in_dims), args, "outer")

    return mapped


def _first(fn: Callable[..., Tree], args: tuple[Tree, ...], in_dims: tuple[Tree, ...]) -> Tree:
    return fn(*tree.map(lambda x, d: x if d is None else x.select(d, 0), args, in_dims))


def _is_followed(x: Tensor, recording: bool) -> bool:
    """Whether a derivative or a map would miss the tensor if it were no argument."""
    return autodiff.is_wrapped(x) or (recording and x.requires_grad) or autodiff.has_tangent(x)


class _Operands(TorchFunctionMode):
    """Sees the operands of every operator: some are swapped for others, and strangers that matter are reported.

    Args:
        swap: The stand-ins by the identity of the tensors that they stand for.
        known: The tensors that are no strangers, to which come all results; ``None`` to report nobody.
        recording: Whether autograd records outside.
        found: Is told of a stranger.
        held: Is told whether operands are being seen to.
    """

    def __init__(
        self,
        swap: dict[int, Tensor],
        known: Iterable[Tensor] | None,
        recording: bool,
        found: Callable[[Tensor], None],
        held: Held | None = None,
    ) -> None:
        super().__init__()
        self._held = Held((), False) if held is None else held
        self._swap, self._recording, self._found = swap, recording, found
        # By identity, and kept alive: an identity is unique among living objects only.
        self._known = None if known is None else {id(x): x for x in known}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        strangers: list[Tensor] = []
        named = kwargs or {}
        if self._swap:
            args, named = self._swapped(tuple(args)), self._swapped(named)
        if self._known is not None:
            self._inspect((*args, *named.values()), self._known, strangers)
        self._held.inside = False  # an operator may be a rule, within which torch has switched this mode off
        try:
            out = func(*args, **named)
        except RuntimeError:
            # Of tensors that are wrapped for a transform further out, torch can make nothing.
            self._report(strangers)
            raise
        finally:
            self._held.inside = True
        # Its device, shape or number may be asked of a tensor without depending on it.
        if strangers and (out is None or any(isinstance(x, Tensor) for x in tree.leaves(out))):
            self._report(strangers)
        if self._known is not None:
            self._note(self._known, out)
        return out

    def __enter__(self) -> _Operands:
        self._held.inside = True
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        self._held.inside = False
        super().__exit__(*error)

    def returned(self, out: Tree) -> Tree:
        """The outcome of a function: a captured tensor that it returns as it is counts as an operand."""
        strangers: list[Tensor] = []
        out = tree.map(lambda x: self._swap.get(id(x), x), out)
        if self._known is not None:
            self._inspect(_tensors(out), self._known, strangers)
        self._report(strangers)
        return out

    def _swapped(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return self._swap.get(id(x), x)
        if type(x) in (list, tuple):
            return _like(x, map(self._swapped, x))
        if type(x) is dict:
            return _like_dict(x, map(self._swapped, x.values()))
        return x

    def _inspect(self, operands: Iterable[Any], known: dict[int, Tensor], strangers: list[Tensor]) -> None:
        for x in operands:
            if isinstance(x, Tensor):
                if id(x) not in known and not self._is_known(x, known):
                    strangers.append(x)
            elif type(x) in (list, tuple):
                self._inspect(x, known, strangers)

    def _is_known(self, x: Tensor, known: dict[int, Tensor]) -> bool:
        # What a transform inside the function has wrapped is no stranger if what it wraps is none.
        if any(id(y) in known for y in autodiff.unwrappings(x)):
            return True
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
            followed = _is_followed(x, self._recording)
        if not followed:
            known[id(x)] = x
        return not followed

    def _report(self, strangers: list[Tensor]) -> None:
        for x in strangers:
            if self._known is not None:
                self._known[id(x)] = x
            self._found(x)

    def _note(self, known: dict[int, Tensor], out: Any) -> None:
        if isinstance(out, Tensor):
            known[id(out)] = out
            for x in autodiff.unwrappings(out):  # which are what a derivative inside the function returns
                known[id(x)] = x
            return
        if issubclass(type(out), tuple | list):
            for x in out:
                self._note(known, x)


def _like(sequence: Any, values: Iterable[Any]) -> Any:
    return type(sequence)(values)


def _like_dict(named: Any, values: Iterable[Any]) -> Any:
    return dict(zip(named, values, strict=True))
