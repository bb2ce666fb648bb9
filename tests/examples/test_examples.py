"""The examples run as they stand: trained, cut on a schedule, saved and loaded."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDED = {"plain": [], "with_lightning": ["lightning"], "with_transformers": ["accelerate"]}
RUN = """
import runpy, sys
from tests.vision import declare_ops
try:
    declare_ops()
except ModuleNotFoundError:
    pass  # without torchvision nobody stumbles on it
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_there_is_one_for_each_kind_of_loop() -> None:
    assert {path.stem for path in EXAMPLES} == set(NEEDED)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(text)) or "")


@pytest.mark.zoo
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path) -> None:
    pytest.importorskip("sklearn")
    for name in NEEDED[path.stem]:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"loaded: ([\d.]+)% right", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) > 85
    assert len(re.findall(r"step \d of \d", done.stdout)) >= 3
