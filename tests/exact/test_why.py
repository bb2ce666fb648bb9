"""The page that answers the question: its snippets run, and print what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "why.md"
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


def printed() -> list[tuple[str, str]]:
    """Each snippet's output, and what the page says it is."""
    scope: dict[str, Any] = {}
    found = []
    for code, said in BLOCK.findall(PAGE.read_text("utf-8")):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, PAGE.name, "exec"), scope)  # noqa: S102 - the page's own code
        found.append((out.getvalue(), said))
    return found


def test_the_page_says_what_its_snippets_print() -> None:
    outputs = printed()
    assert len(outputs) == 5
    for out, said in outputs:
        assert out == said
