"""Progress: every loop is told, the time left is shown, and nothing is said without a bar."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

import excise
from excise.calibration import shown, told
from tests.calibration.network import doubled

X = torch.randn(64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def prune(*, progress: bool) -> None:
    excise.prune(
        doubled(), X[:2], keep_macs=0.6, calibration=X.split(16), reconstruct=3, latency=False,
        progress=progress,
    )  # fmt: skip


def test_without_a_bar_a_loop_is_a_loop(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(told("abc", "letters", 3)) == ["a", "b", "c"]
    prune(progress=False)
    assert capsys.readouterr() == ("", "")


def test_every_stage_is_shown_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    wide = Console(file=out, force_terminal=True, width=120)
    monkeypatch.setattr("excise.calibration.progress.Console", lambda **_: wide)
    prune(progress=True)
    text = out.getvalue()
    for stage in ("watching layers", "weighing units", "probing groups", "refitting layers"):
        assert stage in text
    assert "training blocks" in text
    assert "3/3" in text
    assert "0:00:00" in text  # the time left


def test_the_bar_ends_with_the_block() -> None:
    out = io.StringIO()
    with shown(Console(file=out, force_terminal=True, width=120)):
        assert list(told(range(2), "numbers", 2)) == [0, 1]
    before = out.getvalue()
    assert "numbers" in before
    list(told(range(2), "more", 2))
    assert out.getvalue() == before
