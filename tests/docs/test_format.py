"""The specification of the file format: its code runs, and its JSON is what the code writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from excise.files import format as file_format
from excise.plan import VERSION

TEXT = (Path(__file__).parents[2] / "docs/formats/safetensors.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
JSON = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, flags=re.DOTALL)]


@pytest.fixture
def scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Everything that the page's code defines."""
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    for block in CODE:
        exec(compile(block, "safetensors.md", "exec"), found)  # noqa: S102 - that is the test
    return found


def test_the_header_is_as_printed(scope: dict[str, Any]) -> None:
    assert scope["header"] == JSON[0]


def test_the_plan_is_as_printed(scope: dict[str, Any]) -> None:
    assert json.loads(scope["metadata"]["excise.plan"]) == JSON[1]


def test_every_key_is_specified(scope: dict[str, Any]) -> None:
    for key in (*scope["metadata"], *JSON[1], "biases", "branches", "excise.packed"):
        assert f"| `{key}` |" in TEXT


def test_the_versions_are_the_latest() -> None:
    *_, last = re.findall(r"^\| (\d+) \| (\d+) \| \d", TEXT, flags=re.MULTILINE)
    assert last == (str(file_format.VERSION), str(VERSION))
