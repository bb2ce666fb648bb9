"""The page on sparse weights: its code runs."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs/sparse.md").read_text(encoding="utf-8")


def test_the_code_runs() -> None:
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(compile(block, "sparse.md", "exec"), {})  # noqa: S102 - that is the test
