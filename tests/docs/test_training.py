"""The pages on schedules and ranks: their code runs, and says what there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

import excise
from excise.schedule import PACES

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_page_on_schedules_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for block in blocks("schedules.md"):
        exec(compile(block, "schedules.md", "exec"), scope)  # noqa: S102 - that is the test
    assert (tmp_path / "small.safetensors").exists()
    assert str(scope["step"]).startswith("step 2 of 2: ")


def test_every_pace_is_on_the_page() -> None:
    text = (DOCS / "schedules.md").read_text(encoding="utf-8")
    assert all(f'"{pace}"' in text for pace in PACES)
    assert inspect.signature(excise.schedule).parameters["pace"].default == "cubic"


def test_the_page_on_ranks_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a group of one; tests/ranks does the same with several."""
    start = distributed.init_process_group

    def alone(backend: str) -> None:
        start(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distributed, "init_process_group", alone)
    (block,) = blocks("ranks.md")
    exec(compile(block, "ranks.md", "exec"), {})  # noqa: S102 - that is the test
    assert (tmp_path / "small.safetensors").exists()
    assert not distributed.is_initialized()


def test_what_works_on_ranks_is_on_their_page() -> None:
    text = (DOCS / "ranks.md").read_text(encoding="utf-8")
    for name in (*excise.scores.CALIBRATED, "prune", "schedule", "recalibrate", "reconstruct"):
        assert re.search(rf"`(\w+\.)?{name}`", text), name
