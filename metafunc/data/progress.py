"""How far a long piece of work is."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is in all."""


@contextmanager
def shown(progress: Progress | None, title: str) -> Generator[Progress, None, None]:
    """What to call as the work goes on: the user's own, else a bar where rich is installed and somebody watches."""
    if progress is not None:
        yield progress
        return
    try:
        rich, console = import_module("rich.progress"), import_module("rich.console")
    except ImportError:
        rich = console = None
    if rich is None or console is None or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with rich.Progress(console=console.Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
