"""The specification of packed tensors: its reader reads what excise writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from excise.packing import LAYOUTS, pack, text_of
from excise.packing.rans import BITS, lanes_for

TEXT = (Path(__file__).parents[2] / "docs/formats/packed.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
(ENTRY,) = (block.strip() for block in re.findall(r"```text\n(.*?)```", TEXT, flags=re.DOTALL))


@pytest.fixture
def scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Everything that the page's code defines."""
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    for block in CODE:
        exec(compile(block, "packed.md", "exec"), found)  # noqa: S102 - that is the test
    return found


def test_the_example_is_what_the_code_writes(scope: dict[str, Any]) -> None:
    assert scope["entry"] == ENTRY
    assert np.array_equal(scope["again"], scope["model"][0].weight.detach().numpy())


@pytest.mark.parametrize("zeros", [0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_the_reader_reads_large_tensors(
    scope: dict[str, Any], zeros: float, dtype: torch.dtype
) -> None:
    source = torch.Generator().manual_seed(0)
    tensor = torch.randn(300, 400, generator=source, dtype=torch.float64).to(dtype)
    tensor *= torch.rand(300, 400, generator=source) >= zeros
    packed = pack(tensor, "bitmask")
    assert packed is not None
    if zeros == 0.9:
        assert "rans" in {coder for coder, _ in packed.entry["sections"]}
    again = scope["unpack"](text_of(packed.entry), packed.data).view(tensor.numpy().dtype)
    assert np.array_equal(again, tensor.numpy())


def test_every_layout_and_constant_is_there() -> None:
    for layout in LAYOUTS:
        assert f"| `{layout}` |" in TEXT
    assert f"shares of {1 << BITS}" in TEXT
    assert lanes_for(10 * 2048) == 10
    for coder in ("raw", "deflate", "rans", "bits"):
        assert f"| `{coder}` |" in TEXT
