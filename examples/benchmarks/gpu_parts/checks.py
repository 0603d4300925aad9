"""The tests that are marked ``cuda``, with one line for each as it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from gpu_parts.measure import Part

ROOT = Path(__file__).parents[3]
FILES = ["test_synchronization.py", "test_devices.py", "test_memory.py", "test_composition.py"]
"""Those with such tests; what is exhaustive comes last."""


def checks(part: Part) -> None:
    """Run them by as many workers as there are processors, twelve at most."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "gpu_parts.notes"]
    command += ["-W", "default", *(f"tests/{name}" for name in (FILES[1:2] if part.quick else FILES))]
    command += ["-m", "cuda"] if part.device != "cpu" else []
    command += ["-k", "closed_forms"] if part.quick else []
    if find_spec("xdist") is not None and not part.quick:
        command += ["-n", str(min(12, os.cpu_count() or 1))]
    folders = [str(Path(__file__).parents[1]), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, folders)),
        "METAFUNC_NOTES": str(part.out.resolve()),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    part.write(note=f"pytest ended with exit code {done.returncode}", ended=True)
