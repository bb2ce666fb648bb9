"""The page on running zeros: its code runs, and its table names what can be asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from excise.sparse.kernels import library as kernels
from excise.sparse.kernels.library import FOLDER

TEXT = (Path(__file__).parents[2] / "docs/sparse.md").read_text(encoding="utf-8")


def test_the_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(compile(block, "sparse.md", "exec"), {})  # noqa: S102 - that is the test
    assert "90.0%" in capsys.readouterr().out


def test_the_table_names_all_that_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    named = re.findall(r"^\| `([a-z0-9]+)` \|", TEXT, flags=re.MULTILINE)
    ask: Any = kernels.__wrapped__
    compiled = {path.stem.rpartition("-")[2] for path in FOLDER.glob("libexcise-*.so")}
    assert compiled <= set(named)
    for name in set(named) - {"v4", "v3", "base"}:
        monkeypatch.setenv("EXCISE_KERNELS", name)
        assert ask().why == f"EXCISE_KERNELS={name}"
