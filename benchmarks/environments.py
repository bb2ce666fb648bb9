"""Environments of their own for tools that do not live beside this project's torch.

Each is made once in a folder that is named; a tool that does not install is reported with the
reason, and whoever asked goes on without it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_LONGEST_S = 1800


class Environment(NamedTuple):
    """What is installed together, and the line of Python that shows that it works."""

    packages: tuple[str, ...]
    proof: str


ENVIRONMENTS = {
    "onnx": Environment(("onnx==1.19.1", "numpy==2.3.5"), "import onnx"),
    "runtimes": Environment(
        ("onnxruntime==1.32.0", "openvino==2026.4.1", "numpy==2.3.5"),
        "import onnxruntime, openvino",
    ),
    "deepsparse": Environment(
        ("deepsparse==1.8.0", "numpy==1.26.4", "onnx==1.14.1", "setuptools<81"), "import deepsparse"
    ),
}
"""DeepSparse's licence is for evaluation: it is compared with, and nothing else."""
QUIET = {"NM_DISABLE_ANALYTICS": "1", "DO_NOT_TRACK": "1"}


def made(name: str, folder: Path) -> Path | str:
    """The Python of an environment, made if it is not there; or why there is none."""
    home = folder / name
    python, mark = home / "bin" / "python", home / "works"
    asked = "\n".join(ENVIRONMENTS[name].packages)
    if mark.exists() and mark.read_text("utf-8") == asked:
        return python
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [str(python), "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name].packages],
        [str(python), "-c", ENVIRONMENTS[name].proof],
    )
    for step in steps:
        try:
            done = subprocess.run(  # noqa: S603 - pip, for packages that are named above
                step, check=False, capture_output=True, text=True, timeout=_LONGEST_S, env=clean()
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{name} was not installed: {error}"
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return f"{name} was not installed: {last[:300]}"
    mark.write_text(asked, "utf-8")
    return python


def clean() -> dict[str, str]:
    """The surroundings of a tool: this project's own packages are not in its path."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | QUIET


def packages_of(python: Path) -> str:
    """The folder of an environment's packages."""
    return str(next((python.parents[1] / "lib").glob("python3*/site-packages")))
