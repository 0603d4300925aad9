"""What is asked of the things that an outer loop is built from, and what they were when it was built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from metafunc import errors, tree
from metafunc.captured import look
from metafunc.estimator import Adapt
from metafunc.inner import Args, Inner, touch
from metafunc.wrapped import refuse_wrapped

FIGURES = ("loss", "step", "seconds", "grad_norm")


def check_module(module: Any, name: str) -> None:
    """Raises unless it is a module whose gradients nobody else has to see."""
    if not isinstance(module, nn.Module):
        raise errors.not_a(name, "an nn.Module", module)
    refuse_wrapped(module, name)


def check_optimizer(optimizer: Any, module: nn.Module, name: str) -> None:
    """Raises unless it is an optimizer of the module's parameters and of no others."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise errors.not_a("optimizer", f"a torch.optim optimizer of the {name}'s parameters", optimizer)
    own = {id(p) for p in module.parameters()}
    given = [id(p) for group in optimizer.param_groups for p in group["params"]]
    strangers = sum(p not in own for p in given)
    if strangers:
        raise errors.parameters_of_another(name, strangers, len(given))


def check_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer) -> None:
    """Raises unless it is ``None``, or can be stepped after the optimizer without a figure."""
    if scheduler is None:
        return
    if isinstance(scheduler, type) or not (hasattr(scheduler, "step") and hasattr(scheduler, "state_dict")):
        raise errors.not_a("scheduler", "a torch.optim.lr_scheduler of the optimizer, or None", scheduler)
    try:
        inspect.signature(scheduler.step).bind()
    except TypeError:
        raise errors.scheduler_of_figures(type(scheduler).__name__) from None
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise errors.scheduler_of_another(type(scheduler).__name__)
    for part in getattr(scheduler, "_schedulers", ()):
        check_scheduler(part, optimizer)


def check_metrics(metrics: Any) -> dict[str, Callable[[Any, Any], Tensor]]:
    """The metrics by name; raises unless they are a mapping of functions under names that are free."""
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise errors.metrics_without_names(metrics)
    given = cast("Mapping[str, Any]", metrics)
    for name, metric in given.items():
        if name in FIGURES:
            raise errors.metric_by_a_taken_name(name, FIGURES)
        if not callable(metric):
            raise errors.not_callable(f"metrics[{name!r}]", "metric(outputs, targets) -> scalar", metric)
    return dict(given)


def inner_problem(inner: Any, problem: dict[str, Any], name: str) -> Inner:
    """What ``inner`` makes of a problem; raises unless that is an inner problem."""
    if isinstance(inner, Inner | Adapt) or not callable(inner):
        raise errors.not_a_recipe(name, inner)
    made = inner(problem)
    if not isinstance(made, Inner):
        raise errors.not_a_recipe(name, made, made=True)
    return made


def check_learned(inner: Inner, args: Args) -> None:
    """Raises if the inner problem reaches a tensor to be learned beside ``theta``, which alone gets a gradient."""
    with torch.enable_grad():
        learned = look(lambda at: touch(inner, at), args, inner.name)
    learned += [x for x in tree.leaves(args.hyper) if isinstance(x, Tensor) and x.requires_grad]
    if learned:
        raise errors.learned_beside_theta(learned[0])


def built(optimizer: torch.optim.Optimizer, scheduler: Any) -> dict[str, Any]:
    """Optimizer and scheduler with their options, as plain values, to tell a run from another one.

    Loading a state replaces the options by those that were saved, so that nobody would notice a new one.
    """
    found: dict[str, Any] = {"optimizer": type(optimizer).__name__}
    for i, group in enumerate(optimizer.param_groups):
        options = {**group, "lr": group.get("initial_lr", group.get("lr"))}
        for name, value in options.items():
            if name not in ("params", "initial_lr", "foreach", "fused", "capturable", "differentiable"):
                found[f"optimizer {name}" + (f" of group {i}" if i else "")] = value
    found["scheduler"] = None if scheduler is None else type(scheduler).__name__
    state: dict[str, Any] = {} if scheduler is None else scheduler.state_dict()
    for name, value in state.items():
        if not name.startswith("_") and name not in ("last_epoch", "verbose"):
            found[f"scheduler {name}"] = value
    return {name: repr(value) for name, value in found.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether it is made of numbers, words and lists of them, so that it prints the same in every process."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, cast("list[Any]", value)))
    return value is None or isinstance(value, bool | int | float | str)
