"""Checkpoints that are whole or not there."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from metafunc.training import errors


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a file that a kill at any moment leaves either old or new, never half."""
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """What was saved, on the CPU; ``None`` if there is no such file.

    Raises:
        ValueError: If the file is no checkpoint. Nothing in a file is ever executed.
    """
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise errors.not_a_checkpoint(path, str(error).partition("\n")[0]) from error
