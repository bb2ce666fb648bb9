"""Compile the kernels, once for each instruction set: while the wheel is built, without torch.

By hand, in a checkout: `python src/excise/sparse/kernels/compile.py`.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = {
    "x86_64": {"v4": "-march=x86-64-v4", "v3": "-march=x86-64-v3", "base": "-march=x86-64"},
    "AMD64": {"v4": "-march=x86-64-v4", "v3": "-march=x86-64-v3", "base": "-march=x86-64"},
}
"""Machine -> name -> what the compiler is told; other machines get what the compiler does alone."""
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-fno-math-errno", "-ffp-contract=fast", "-fopenmp")
_LONGEST_S = 300


def compiler() -> list[str] | None:
    """The C compiler that `CC` names, or the first that is there."""
    named = os.environ.get("CC", "").split()
    for words in (named, ["cc"], ["gcc"], ["clang"]):
        if words and shutil.which(words[0]):
            return words
    return None


def sources(folder: Path) -> list[Path]:
    """The C files of the kernels, one for each family."""
    return sorted(folder.glob("*.c"))


def compile_all(folder: Path) -> list[Path]:
    """Write `libexcise-*.so` beside the source: as many as the compiler can; none without one.

    The libraries name no OpenMP runtime of their own: they are loaded beside torch, and share the
    threads that it has.
    """
    words = compiler()
    if words is None or sys.platform == "win32":
        return []
    made = []
    for name, flag in TARGETS.get(platform.machine(), {"base": ""}).items():
        target = folder / f"libexcise-{name}.so"
        with tempfile.TemporaryDirectory() as work:
            whole = Path(work) / "kernels.so"
            link = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
            parts = {file: str(Path(work) / f"{file.stem}.o") for file in sources(folder)}
            steps = [
                [*words, *FLAGS, *flag.split(), "-c", str(file), "-o", part]
                for file, part in parts.items()
            ]
            steps.append([*words, "-shared", *link, *parts.values(), "-lm", "-o", str(whole)])
            if all(_done(step) for step in steps):
                fresh = target.with_suffix(".new")
                shutil.copy(whole, fresh)
                fresh.replace(target)  # not written over: whoever has it loaded would crash
                made.append(target)
    return made


def _done(command: list[str]) -> bool:
    try:
        ended = subprocess.run(  # noqa: S603 - the compiler that the builder of the wheel chose
            command, check=False, capture_output=True, text=True, timeout=_LONGEST_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"excise: {error}\n")
        return False
    if ended.returncode:
        sys.stderr.write(f"excise: {' '.join(command)}\n{ended.stderr}\n")
    return not ended.returncode


if __name__ == "__main__":
    for path in compile_all(Path(__file__).parent):
        sys.stdout.write(f"{path}\n")
