"""A pytest plugin: the outcome of every test as a line of JSON, at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

_out: list[Path] = []


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # xdist's workers report to the process that started them
        _out[:] = [Path(os.environ["METAFUNC_NOTES"])]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not _out or (report.when != "call" and report.passed):
        return
    record = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}
    if report.failed:
        lines = [line for line in report.longreprtext.splitlines() if line.startswith("E  ")]
        record["message"] = " ".join(line[1:].strip() for line in lines)[:400]
    record |= {"noted": dict(report.user_properties)} if report.user_properties else {}
    with _out[0].open("a") as file:
        file.write(json.dumps(record) + "\n")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if _out and report.failed:
        record = {"test": report.nodeid, "outcome": "failed", "message": report.longreprtext[-400:]}
        with _out[0].open("a") as file:
            file.write(json.dumps(record) + "\n")
