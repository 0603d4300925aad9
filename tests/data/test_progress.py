from __future__ import annotations

import io
import sys

import pytest

from metafunc.data.progress import shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work() -> None:
    with shown(None, "reading data") as show:
        for done in range(1, 4):
            show(done, 3)


def test_a_function_of_the_users_is_called() -> None:
    seen: list[tuple[int, int]] = []
    with shown(lambda done, total: seen.append((done, total)), "reading") as show:
        show(1, 2)
    assert seen == [(1, 2)]


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    work()
    assert "reading data" in terminal.getvalue()


def test_without_a_terminal_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    work()
    assert capsys.readouterr() == ("", "")


def test_without_rich_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    work()
    assert terminal.getvalue() == ""
