"""The page on engine: its code runs."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs/engine.md").read_text(encoding="utf-8")


def test_the_code_runs() -> None:
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(compile(block, "engine.md", "exec"), {})  # noqa: S102 - that is the test
