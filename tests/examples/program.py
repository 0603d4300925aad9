"""Runs a script of ``examples/`` in this process, as the command line would, for a new one imports torch for seconds."""

from __future__ import annotations

import io
import runpy
import signal
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Finished:
    """What is left of a program: its exit status, and what it printed."""

    status: int
    out: str
    errors: str


def start(script: str, folder: Path, *options: object, out: io.StringIO | None = None) -> Finished:
    """The program in that folder. As everywhere in the tests, a warning is an error."""
    path = EXAMPLES / script
    out, errors = out or io.StringIO(), io.StringIO()
    helpers = {name: module for name, module in sys.modules.items() if _is_a_helper(module)}
    _forget(set(helpers))
    loaded, threads, on_ctrl_c = set(sys.modules), torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(path), *map(str, options)])
        patch.setattr(sys, "path", [str(path.parent), *sys.path])
        patch.setenv("PYTHONPATH", str(ROOT))  # of the programs that it starts
        patch.setenv("COLUMNS", "140")
        patch.setenv("METAFUNC_CACHE", str(folder / "cache"))
        torch.set_default_dtype(torch.float32)
        try:
            runpy.run_path(str(path), run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                errors.write(end.code)
        except Exception:
            status = 1
            traceback.print_exc()
        finally:
            signal.signal(signal.SIGINT, on_ctrl_c)
            torch.set_num_threads(threads)
            torch.set_default_dtype(torch.float64)
            _forget(set(sys.modules) - loaded)
            sys.modules.update(helpers)
    return Finished(status, out.getvalue(), errors.getvalue())


def run(script: str, folder: Path, *options: object) -> str:
    """What the program prints; it has to end well."""
    done = start(script, folder, *options)
    assert done.status == 0, done.errors
    return done.out


def _is_a_helper(module: Any) -> bool:
    """Whether a module is of the examples, whose folders have modules of the same names."""
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(EXAMPLES)


def _forget(names: set[str]) -> None:
    """Other folders have helpers of the same names; and pictures that nobody closes are kept by matplotlib."""
    for name in names:
        file = getattr(sys.modules[name], "__file__", None)
        if file and EXAMPLES in Path(file).parents:
            del sys.modules[name]
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
