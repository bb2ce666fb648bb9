"""Compile the kernels of excise.sparse while the wheel is built; without a compiler, go on."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path(__file__).parent / "src/excise/sparse/kernels"


class CustomBuildHook(BuildHookInterface[Any]):
    """Called by hatchling for wheels, editable ones too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say for which platform the wheel is."""
        del version
        if not runpy.run_path(str(KERNELS / "compile.py"))["compile_all"](KERNELS):
            return  # a pure wheel: excise.sparse says what is missing
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["pure_python"] = False
        build_data["artifacts"].append("src/excise/sparse/kernels/*.so")
