"""The training loop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metafunc.data.tasks import Sampler
from metafunc.training import errors
from metafunc.training.display import Display
from metafunc.training.evaluate import check_learner, check_positive
from metafunc.training.folder import Folder, read_json, write_json
from metafunc.training.interrupt import Interrupt
from metafunc.training.learner import Learner
from metafunc.training.lock import Lock
from metafunc.training.loop import Options, Run, Training
from metafunc.training.record import writer_type
from metafunc.training.rehearsal import rehearse
from metafunc.training.validation import Validation


def train(
    learner: Learner,
    tasks: Sampler,
    *,
    steps: int,
    batch: int,
    folder: str | Path,
    validation: Validation | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    log_every: int = 10,
    save_seconds: float = 60.0,
    tensorboard: bool = True,
    show: bool = True,
    restart: bool = False,
    max_skips: int = 10,
) -> Run:
    """Meta-trains for a number of steps, or goes on with a run that was stopped.

    A run that was interrupted, killed or asked for fewer steps goes on where it was when it is called again with the
    same folder: on a CPU the outcome is the same to the last bit as if it had never stopped. A kill costs what was
    done since the last checkpoint, Ctrl-C and SIGTERM nothing: the meta-step at hand is ended and saved.

    The folder holds ``training.csv`` (means over ``log_every`` steps), ``validation.csv``, TensorBoard's events,
    ``last.pt`` (the checkpoint to go on from), ``best.pt`` (the state with the best validation), ``settings.json``, and
    ``run.json``, the list of these. Files that are not in the list are never touched, and where one of them has a name
    that is needed, the run is refused. A lock keeps a second run out.

    At its end a run is validated once more, and the steps since the last row are logged. A run that then goes on
    forgets both, so that it stays the run that it would have been in one go.

    A meta-step whose loss or gradient is not finite, because one of its tasks is broken, say, changes nothing: it is
    counted, with a warning at the first one and a column ``skipped``, and the run goes on. More than ``max_skips`` in
    a row end it.

    Args:
        learner: What is trained, such as :class:`metafunc.MetaOptimizer`; at the end it has the best state.
        tasks: Where the tasks come from.
        steps: How many meta-steps in all.
        batch: Tasks in a meta-step.
        folder: Where everything is kept.
        validation: Periodic validation; without it the last state counts as the best.
        seed: Of the draw of the tasks.
        settings: What the run was made with, as JSON can hold it. A run that goes on has to have the same, and the same
            ``batch``, ``seed`` and ``validation``, but for its ``patience``.
        log_every: Meta-steps between rows of ``training.csv``. The figures of a GPU are fetched no more often.
        save_seconds: Time between checkpoints. There is one after every new best too.
        tensorboard: Whether to write TensorBoard's events too.
        show: Whether to show a progress bar and validation scores, on standard error.
        restart: Whether a run that is in the folder is thrown away. That is done when a first meta-step and the first
            tasks of the validation were tried; until then, the old run stays whole.
        max_skips: How many meta-steps in a row may be skipped; see above.

    Raises:
        TypeError, ValueError: If an argument is of another kind or out of range, the folder has files of others, or it
            is that of a run that was made otherwise, or is broken.
        RuntimeError: If another run is using the folder.
        FloatingPointError: If the loss is no longer finite; the last checkpoint is from before.
        ImportError: If a package for display or TensorBoard is missing.

    Warns:
        RuntimeWarning: Once, when a step was skipped; once, when the figures of an implicit estimator say that its
            gradients mean nothing.

    Example:
        >>> validation = mf.training.Validation(episodes("val"), count=600, every=500, patience=10)
        >>> run = mf.training.train(meta, episodes("train"), steps=20_000, batch=4, folder="runs/maml",
        ...                         validation=validation)
        >>> mf.training.evaluate(meta, episodes("test"), 1000)["accuracy"]
    """
    check_learner(learner)
    if not hasattr(tasks, "sample"):
        raise errors.not_a_sampler("tasks", tasks)
    for name, value in (("steps", steps), ("batch", batch), ("log_every", log_every)):
        check_positive(name, value)
    if isinstance(max_skips, bool) or not isinstance(max_skips, int) or max_skips < 0:
        raise errors.out_of_range("max_skips", max_skips, "a whole number of at least 0")
    if validation is not None and not isinstance(validation, Validation):
        raise errors.not_validation(validation)
    if settings is not None and not isinstance(settings, Mapping):
        raise errors.not_settings(settings)
    if tensorboard:
        writer_type()
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with Lock(path), Interrupt() as interrupt, Display(steps, show) as display:
        files = Folder(path)
        if restart and files.has_run:
            rehearse(learner, tasks, batch, seed, validation)
            files.clear()
        _claim(files, validation, dict(settings or {}))
        options = Options(steps, batch, log_every, save_seconds, max_skips)
        training = Training(learner, tasks, files.path, seed, validation, options, display)
        token = files.claim_events() if tensorboard else None
        with training.showing(token):
            stopped = training.run(interrupt)
        return training.ended(stopped)


def _claim(files: Folder, validation: Validation | None, settings: dict[str, Any]) -> None:
    """Takes the names that a run needs, and sees to its settings: one that goes on has to have those it began with."""
    files.claim("last.pt", "training.csv", "settings.json")
    if validation is not None:
        files.claim("validation.csv", "best.pt")
    files.sweep()
    path = files.path / "settings.json"
    settings = json.loads(json.dumps(settings, default=_named))
    if path.exists() and (files.path / "last.pt").exists():
        old = read_json(path)
        if json.dumps(old, sort_keys=True) != json.dumps(settings, sort_keys=True):
            raise errors.other_settings(files.path, old, settings)
    else:
        write_json(path, settings)


def _named(value: Any) -> str:
    """What JSON has no form for; functions and classes by name, as they print with an address."""
    return getattr(value, "__qualname__", None) or str(value)
