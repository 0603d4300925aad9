"""The states of torch's random number generators: whether anything was drawn, and how the same is drawn again."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from metafunc import autodiff, tree
from metafunc.tree import Tree

T = TypeVar("T")


class Snapshot:
    """The states of the processor's generator and of those of some devices, at one moment."""

    __slots__ = ("_states",)

    def __init__(self, devices: set[torch.device]) -> None:
        # Tensors without values, on the meta device, have no generator either.
        self._states = {device: _state(device) for device in devices if device.type != "meta"}

    def moved(self) -> bool:
        """Whether anything has been drawn since."""
        with autodiff.outside():
            return any(not torch.equal(old, _state(device)) for device, old in self._states.items())

    def restore(self) -> None:
        """What is drawn next is what was drawn after this moment."""
        for device, state in self._states.items():
            _generator(device).set_state(state)


class Tape:
    """The snapshots from before the initialisation and from before every step of a path, as far as it draws at all."""

    __slots__ = ("_before", "_devices", "_drawing")

    def __init__(self, args: Tree, drawing: bool | None = None) -> None:
        self._devices = _devices(args)
        self._drawing = drawing  # None until the first step has told
        self._before: list[Snapshot] = []

    def note(self) -> None:
        """To be called before the initialisation and before every step."""
        if self._drawing is None and len(self._before) == 2:
            self._drawing = self._before[0].moved()
        if self._drawing is not False:
            self._before.append(Snapshot(self._devices))

    def before(self, step: int) -> Snapshot:
        """The snapshot from before a step; -1 is the initialisation."""
        return self._before[step + 1]

    @property
    def start(self) -> Snapshot:
        """The first snapshot."""
        return self._before[0]

    @property
    def complete(self) -> bool:
        """Whether there is a snapshot for everything that was noted."""
        return self._drawing is not False


Draws: TypeAlias = Tape | tuple[()]
"""A tape, or nothing where nothing was drawn; an outcome of a rule, which ``torch.compile`` takes as it is."""


def taped(args: Tree, walk: Callable[[Draws], T]) -> tuple[T, Draws]:
    """``walk(tape)``, and the tape, or ``()`` if nothing was drawn.

    Args:
        args: What is on the devices whose generators count.
        walk: Runs a path, and notes the beginning of every step on the tape.
    """
    if autodiff.is_traced():
        return walk(()), ()
    tape = Tape(args)
    out = walk(tape)
    if not tape.start.moved():
        return out, ()
    if not tape.complete:  # the first step drew nothing, but a later one did
        tape.start.restore()
        tape = Tape(args, drawing=True)
        out = walk(tape)
    return out, tape


@contextmanager
def undisturbed(args: Tree) -> Generator[None]:
    """Whatever is drawn within is given back."""
    if autodiff.is_traced():
        yield
        return
    snapshot = Snapshot(_devices(args))
    try:
        yield
    finally:
        snapshot.restore()


def replaying(tape: Draws, args: Tree) -> Any:
    """A context in which steps of a path are run once more: what they draw again is given back."""
    return undisturbed(args) if tape else nullcontext()


@contextmanager
def refusing_draws(args: Tree, error: Callable[[], Exception]) -> Generator[None]:
    """Raises ``error()`` at the end if anything was drawn within."""
    if autodiff.is_traced():
        yield
        return
    snapshot = Snapshot(_devices(args))
    yield
    if snapshot.moved():
        snapshot.restore()
        raise error()


def _devices(args: Tree) -> set[torch.device]:
    return {torch.device("cpu"), *(x.device for x in tree.leaves(args) if isinstance(x, Tensor))}


def _state(device: torch.device) -> Tensor:
    return _generator(device).get_state()


def _generator(device: torch.device) -> Any:
    if device.type == "cpu":
        return torch.default_generator
    module: Any = torch.get_device_module(device)
    return module.default_generators[device.index or 0]
