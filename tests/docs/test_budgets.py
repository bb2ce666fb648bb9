"""The page on budgets: its code runs, and its table names the budgets that there are."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import excise

TEXT = (Path(__file__).parents[2] / "docs/budgets.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("paced")
def test_the_code_runs() -> None:
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(compile(block, "budgets.md", "exec"), {})  # noqa: S102 - that is the test


def test_every_budget_is_in_the_table_with_who_takes_it() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", TEXT, flags=re.MULTILINE))
    for function in (excise.plan, excise.prune, excise.schedule):
        names = inspect.signature(function).parameters
        taken = {n for n in names if n.startswith("keep_") or n in {"speedup", "latency_ms"}}
        told = {n for n, where in rows.items() if f"`{function.__name__}`" in where}
        assert taken == told
