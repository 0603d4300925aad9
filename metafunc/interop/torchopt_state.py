"""TorchOpt's helpers that keep the state of a module or an optimizer and put it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from metafunc import errors, tree
from metafunc.interop.errors import other_module
from metafunc.interop.library import TORCHOPT
from metafunc.interop.modules import containers, update
from metafunc.interop.torchopt_base import MetaOptimizer, States

_BY = {
    "reference": "reference",
    "ref": "reference",
    "copy": "copy",
    "clone": "copy",
    "deepcopy": "deepcopy",
    "deepclone": "deepcopy",
}


class ModuleState(NamedTuple):
    """The parameters and buffers of a module: for each of its parts that has any, a dictionary."""

    params: tuple[dict[str, Tensor], ...]
    buffers: tuple[dict[str, Tensor], ...]
    visual_contents: dict[Any, Any] | None = None
    detach_buffers: bool = False


def extract_state_dict(
    target: nn.Module | MetaOptimizer,
    *,
    by: str = "reference",
    device: torch.device | str | int | None = None,
    with_buffers: bool = True,
    detach_buffers: bool = False,
    enable_visual: bool = False,
    visual_prefix: str = "",
) -> Any:
    """What a module or an optimizer holds now, for :func:`recover_state_dict`.

    Source: ``torchopt.extract_state_dict`` 0.7.3. Differs in: tied tensors stay tied in a copy.

    Args:
        target: A module, or an optimizer of this package.
        by: ``"reference"`` (or ``"ref"``): the tensors themselves. ``"copy"`` (``"clone"``): clones, through which
            gradients flow. ``"deepcopy"`` (``"deepclone"``): clones without a history.
        device: Where the tensors go. Default: they stay.
        with_buffers: Whether the buffers of a module are part of it.
        detach_buffers: Whether buffers are copied without a history in any case, now and when they are put back.
        enable_visual: Whether the names of parameters are kept too, for a drawing of the graph.
        visual_prefix: What the names are to begin with.

    Returns:
        A :class:`ModuleState`, or the states of the optimizer's groups.

    Raises:
        ValueError: For another ``by``.
        TypeError: For a target of another kind.
    """
    if by not in _BY:
        raise errors.out_of_range("by", by, "'reference', 'copy' or 'deepcopy'", "spelled so")
    replicate = _replicate(_BY[by], device)
    if isinstance(target, MetaOptimizer):
        return target.state_dict().map(replicate)
    if not isinstance(target, nn.Module):
        raise errors.not_a("target", "an nn.Module or a metafunc MetaOptimizer", target)
    visual = _names(target, visual_prefix) if enable_visual else None
    params = tuple(_copy(part, replicate) for part in containers(target, "_parameters"))
    spare = _replicate("deepcopy", device) if detach_buffers else replicate
    buffers = tuple(_copy(part, spare) for part in containers(target, "_buffers")) if with_buffers else ()
    return ModuleState(params, buffers, visual, detach_buffers)


def recover_state_dict(target: nn.Module | MetaOptimizer, state: Any) -> None:
    """Put back what :func:`extract_state_dict` has kept; the tensors that are there now are left alone.

    Source: ``torchopt.recover_state_dict`` 0.7.3. Differs in: a state that does not fit is an error.

    Args:
        target: The module or the optimizer that the state is from, or one like it.
        state: The state.

    Raises:
        TypeError: If the target is of another kind, or the state is one of the other kind.
        ValueError: If the state does not fit.
    """
    if isinstance(target, MetaOptimizer):
        target.load_state_dict(state)
        return
    if not isinstance(target, nn.Module):
        raise errors.not_a("target", "an nn.Module or a metafunc MetaOptimizer", target)
    if not isinstance(state, ModuleState):
        raise errors.not_a("state", "the state of a module, from extract_state_dict", state)
    for kind, kept in (("_parameters", state.params), ("_buffers", state.buffers)):
        here = containers(target, kind)
        if kind == "_buffers" and not kept:  # extracted without them
            continue
        if [set(_tensors(part)) for part in here] != [set(part) for part in kept]:
            raise other_module(type(target).__name__)
    update(target, "_parameters", state.params)
    if state.buffers:
        replicate = _replicate("deepcopy" if state.detach_buffers else "reference", None)
        update(target, "_buffers", [_copy(part, replicate) for part in state.buffers])


def stop_gradient(target: Any) -> None:
    """Detach, in place, every tensor of a module's parameters, a state, an optimizer, or a tree.

    Source: ``torchopt.stop_gradient`` 0.7.3. What required a gradient does so again, as a leaf.
    """
    held: Any = target
    if isinstance(target, ModuleState):
        held = target.params, target.buffers
    elif isinstance(target, nn.Module):
        held = tuple(target.parameters())
    elif isinstance(target, MetaOptimizer):
        held = tuple(target.state_dict())
    for x in tree.leaves(tuple(held) if isinstance(held, States) else held):
        if isinstance(x, Tensor):
            recorded = x.requires_grad
            x.detach_().requires_grad_(recorded)


def module_detach_(target: Any) -> Any:
    """:func:`stop_gradient`, with the target returned, as ``torchopt.module_detach_`` 0.7.3."""
    stop_gradient(target)
    return target


def module_clone(
    target: Any, *, by: str = "reference", detach_buffers: bool = False, device: Any = None
) -> Any:
    """``torchopt.module_clone`` of a module or of a tree of tensors.

    Raises:
        TypeError: For an optimizer of this package, whose steps belong to its own module.
    """
    if isinstance(target, MetaOptimizer):
        raise errors.not_a("target", "a module or a tree of tensors (for an optimizer, state_dict())", target)
    return TORCHOPT.attribute("module_clone")(target, by=by, detach_buffers=detach_buffers, device=device)


def _replicate(by: str, device: Any) -> Callable[[Tensor], Tensor]:
    copies: dict[int, tuple[Tensor, Tensor]] = {}  # with the tensor itself, so that no other gets its id

    def moved(x: Tensor) -> Tensor:
        return x if device is None else x.to(device)

    def replicate(x: Tensor) -> Tensor:
        if by == "reference":
            return moved(x)
        if id(x) not in copies:
            copies[id(x)] = x, moved(x.clone()) if by == "copy" else _leaf(x, moved(x.detach().clone()))
        return copies[id(x)][1]

    return replicate


def _leaf(like: Tensor, value: Tensor) -> Tensor:
    if isinstance(like, nn.Parameter):
        return nn.Parameter(value, requires_grad=like.requires_grad)
    return value.requires_grad_(like.requires_grad)


def _tensors(part: dict[str, Any]) -> dict[str, Tensor]:
    return {key: x for key, x in part.items() if isinstance(x, Tensor)}


def _copy(part: dict[str, Any], replicate: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {key: replicate(x) for key, x in _tensors(part).items()}


def _names(module: nn.Module, prefix: str) -> dict[Any, Any]:
    return {
        x if x.grad_fn is None else x.grad_fn: prefix + name if x.grad_fn is None else (prefix + name, x)
        for name, x in module.named_parameters()
    }
