"""The interface of higher with any estimator in place of its unrolling: a change of one import.

``import metafunc.interop.higher as higher`` has all names of higher 0.2.1. :func:`innerloop_ctx` takes one more
argument, ``estimator``, by keyword; without it, it is higher's own. Where the estimator plays no part the names are
those of the installed library (``pip install 'metafunc[higher]'``), which is loaded when one of them is first used.
"""

from __future__ import annotations

from typing import Any

from metafunc.interop.higher import optim, patch, utils
from metafunc.interop.higher.loop import innerloop_ctx
from metafunc.interop.library import HIGHER

__all__ = ["innerloop_ctx", "optim", "patch", "utils"]


def __getattr__(name: str) -> Any:
    return HIGHER.attribute(name, "patch" if name == "make_functional" else "")


def __dir__() -> list[str]:
    return sorted({*globals(), *HIGHER.names(), "make_functional"})
