"""The messages of this package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def out_of_range(name: str, value: Any, expected: str) -> ValueError:
    """A number that cannot be worked with."""
    return ValueError(f"{name}: expected {expected}, got {value!r}. Give {name} such a value.")


def not_a_sampler(name: str, value: Any) -> TypeError:
    """Something that draws no tasks."""
    return TypeError(
        f"{name}: expected an object with sample(tasks, generator), such as mf.data.Episodes(...), "
        f"got {type(value).__name__}. Wrap your data in a class with that method."
    )


def not_a_learner(value: Any, missing: Iterable[str]) -> TypeError:
    """Something that cannot be trained."""
    return TypeError(
        f"learner: expected an object with step, evaluate, state_dict and load_state_dict, such as mf.MetaOptimizer, "
        f"got {type(value).__name__} without {', '.join(missing)}. Add what is missing."
    )


def unknown_monitor(monitor: str, known: Iterable[str]) -> ValueError:
    """A figure that the learner does not report."""
    return ValueError(
        f"monitor: expected one of {', '.join(known)}, got {monitor!r}. "
        f"Name a figure that learner.evaluate returns, or add it there (metrics= of mf.MetaOptimizer)."
    )


def not_finite(step: int, loss: float, folder: Path, saved: int | None) -> FloatingPointError:
    """A diverged run."""
    kept = (
        "nothing was saved yet" if saved is None else f"{folder / 'last.pt'} holds step {saved}, from before"
    )
    return FloatingPointError(
        f"loss at meta-step {step}: expected a finite number, got {loss}; {kept}. "
        f"Lower the inner or the outer learning rate, or clip the meta-gradient (clip= of mf.MetaOptimizer)."
    )


def too_many_skipped(step: int, count: int, folder: Path, saved: int | None) -> FloatingPointError:
    """A run that does not get on."""
    kept = "nothing was saved yet" if saved is None else f"{folder / 'last.pt'} holds step {saved}"
    return FloatingPointError(
        f"meta-step {step}: expected at most {count} in a row without a finite gradient, got one more; {kept}. "
        f"Look at the tasks that are named above, lower the inner or the outer learning rate, or raise max_skips."
    )


def other_settings(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> ValueError:
    """A folder that holds another run."""
    names = [name for name in {**old, **new} if repr(old.get(name)) != repr(new.get(name))]
    changes = ", ".join(f"{name}={new.get(name)!r} (there: {old.get(name)!r})" for name in names)
    return ValueError(
        f"folder: expected a new folder or one of a run with the same settings, got {str(folder)!r} and {changes}. "
        f"Name another folder, give the settings of that run, or start it anew with restart=True."
    )


def not_a_checkpoint(path: Path, got: str) -> ValueError:
    """A file that cannot be read back."""
    return ValueError(
        f"{path}: expected a checkpoint of this library, got {got}. "
        f"Remove it to begin anew, start anew with restart=True, or name another folder."
    )


def not_readable(path: Path, expected: str, reason: str) -> ValueError:
    """A file of a run that somebody has changed."""
    return ValueError(
        f"{path}: expected {expected}, got a file that is none ({reason}). "
        f"Put it back as it was, or name another folder; restart=True begins anew and needs {path.parent / 'run.json'}."
    )


def state_refused(path: Path, error: Exception) -> ValueError:
    """A checkpoint of another learner."""
    return ValueError(
        f"{path}: expected a checkpoint of a learner like this one, got one that it refuses ({error}). "
        f"Build the learner as it was, start anew with restart=True, or name another folder."
    )


def files_of_others(folder: Path, names: Iterable[str]) -> ValueError:
    """Files that a run would overwrite."""
    return ValueError(
        f"folder: expected a new folder or one of a run, got {str(folder)!r} with {', '.join(names)}, which no run has "
        f"written there. Name another folder, or move these away."
    )


def folder_in_use(folder: Path) -> RuntimeError:
    """A folder that another run is writing to."""
    return RuntimeError(
        f"folder: expected one that no other run is using, got {str(folder)!r}, where one is going on. "
        f"Wait for its end, or name another folder."
    )


def not_settings(value: Any) -> TypeError:
    """Settings without names."""
    return TypeError(
        f"settings: expected a mapping that JSON can hold, got {type(value).__name__} {value!r}. "
        f"Pass settings={{'lr': 0.01}}, say, or vars(options)."
    )


def not_validation(value: Any) -> TypeError:
    """A validation of another kind."""
    return TypeError(
        f"validation: expected mf.training.Validation(tasks, ...) or None, got {type(value).__name__}. "
        f"Wrap your validation tasks in it."
    )
