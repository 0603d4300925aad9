"""Checkpoints that are whole or not there."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, cast

import torch

from metafunc.data.files import write_atomically
from metafunc.training import errors


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a file that a kill at any moment leaves either old or new, never half."""
    write_atomically(path, lambda file: torch.save(state, file))


def copy(state: dict[str, Any]) -> dict[str, Any]:
    """What a file of this state would hold, on the CPU."""
    held = io.BytesIO()
    torch.save(state, held)
    held.seek(0)
    return torch.load(held, map_location="cpu", weights_only=True)


def load(path: Path) -> dict[str, Any] | None:
    """What was saved, on the CPU; ``None`` if there is no such file.

    Raises:
        ValueError: If the file is no checkpoint. Nothing in a file is ever executed.
    """
    if not os.path.lexists(path):
        return None
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise errors.not_a_checkpoint(path, f"a file that cannot be read ({reason})") from error
    if not isinstance(found, dict):
        raise errors.not_a_checkpoint(path, f"a {type(found).__name__}")
    return cast("dict[str, Any]", found)
