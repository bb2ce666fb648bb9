"""Progress goes to stderr, and only for what takes longer than a second."""

from __future__ import annotations

import time

import pytest

from excise.cli import console


def test_what_takes_long_is_said_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_QUIET_S", 0.05)
    with console.progress("reading") as tell:
        time.sleep(0.3)
        tell("cutting")
        tell("proving")
        time.sleep(0.3)
    said = capsys.readouterr()
    assert said.err.splitlines() == ["excise: reading", "excise: proving"]
    assert said.out == ""


def test_what_is_quick_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("reading"):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_nothing_is_said_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_QUIET_S", 0.05)
    with pytest.raises(ZeroDivisionError), console.progress("reading"):
        raise ZeroDivisionError
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
