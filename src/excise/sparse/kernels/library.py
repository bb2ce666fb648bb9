"""Find the kernels that this machine runs, or say what is missing."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import re
from ctypes import POINTER, Structure, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
_NAMES = ("v4", "v3", "base")  # fastest first
_KERNELS = (
    "spmm", "linear", "conv", "direct", "depthwise", "largest", "mean", "gemv", "gemv_mask",
    "gemv_short", "gemv_mask_short", "run", "lanes", "dots",
)  # fmt: skip
_RUNTIMES = r"\S*/lib(?:gomp|omp|iomp5)[^/\s]*\.(?:so|dylib)[^/\s]*"


class Matrix(Structure):
    """`matrix` of common.h."""

    _fields_ = [
        ("value", c_void_p), ("index", c_void_p), ("pointer", c_void_p),
        ("rows", c_int64), ("depth", c_int64), ("block", c_int64), ("span", c_int64),
    ]  # fmt: skip


class Mask(Structure):
    """`bitmask` of common.h, `short_bitmask` of bfloat.c."""

    _fields_ = [
        ("value", c_void_p), ("mask", c_void_p), ("pointer", c_void_p),
        ("rows", c_int64), ("words", c_int64),
    ]  # fmt: skip


class ShortMatrix(Structure):
    """`short_matrix` of bfloat.c."""

    _fields_ = [
        ("value", c_void_p), ("index", c_void_p), ("pointer", c_void_p), ("rows", c_int64),
    ]  # fmt: skip


class Finish(Structure):
    """`finish` of common.h."""

    _fields_ = [
        ("bias", c_void_p), ("residual", c_void_p), ("activation", c_int64), ("late", c_int64),
    ]  # fmt: skip


class Product(Structure):
    """`product` of common.h."""

    _fields_ = [
        ("x", c_void_p), ("images", c_int64), ("columns", c_int64), ("x_image", c_int64),
        ("x_pitch", c_int64), ("y", c_void_p), ("y_image", c_int64), ("y_pitch", c_int64),
        ("tiles", c_int64), ("in_place", c_int64), ("threads", c_int64),
    ]  # fmt: skip


class Window(Structure):
    """`window` of common.h."""

    _fields_ = [
        ("channels", c_int64), ("height", c_int64), ("width", c_int64),
        ("kernel_y", c_int64), ("kernel_x", c_int64), ("stride_y", c_int64), ("stride_x", c_int64),
        ("pad_y", c_int64), ("pad_x", c_int64), ("step_y", c_int64), ("step_x", c_int64),
        ("out_y", c_int64), ("out_x", c_int64),
    ]  # fmt: skip


KINDS = (
    "spmm", "linear", "conv", "direct", "depthwise", "largest", "mean", "gemv", "gemv_mask",
    "pair",
)  # fmt: skip
"""Of a stage, as stage.h numbers them."""


class Pair(Structure):
    """`pair` of stage.h."""

    _fields_ = [
        ("matrix", c_void_p), ("finish", c_void_p), ("columns", c_int64), ("each", c_int64),
        ("weight", c_void_p),
    ]  # fmt: skip


class Stage(Structure):
    """`stage` of stage.h."""

    _fields_ = [
        ("kind", c_int64), ("weight", c_void_p), ("product", c_void_p), ("window", c_void_p),
        ("finish", c_void_p), ("rows", c_int64), ("vectors", c_int64),
    ]  # fmt: skip


class Library(NamedTuple):
    """The kernels of one instruction set.

    Attributes:
        name: "v4" for AVX-512, "v3" for AVX2, "base".
        lanes: floats in a vector.
        code: the loaded library.
        dots: whether it multiplies pairs of bfloat16 in one step here.
    """

    name: str
    lanes: int
    code: Any
    dots: bool = False


class Missing(NamedTuple):
    """Why there are no kernels here."""

    why: str


def wanted() -> str:
    """Which kernels the surroundings ask for; empty for the fastest."""
    return os.environ.get("EXCISE_KERNELS", "")


@functools.cache
def library() -> Library | Missing:
    """The fastest kernels that this machine runs; chosen once.

    `EXCISE_KERNELS` set to "v4", "v3" or "base" asks for one of them, "none" for none, "torch" for
    what torch carries instead.
    """
    asked = wanted()
    if asked in {"none", "torch"}:
        return Missing(f"EXCISE_KERNELS={asked}")
    if not (FOLDER / "libexcise-base.so").exists():
        return Missing("they were not compiled: install excise where there is a C compiler")
    _share_threads()
    try:
        runs = ctypes.CDLL(str(FOLDER / "libexcise-base.so")).excise_runs
    except OSError as error:
        return Missing(f"they cannot be loaded ({error})")
    for name in (asked,) if asked else _NAMES:
        path = FOLDER / f"libexcise-{name}.so"
        if path.exists():
            found = _loaded(name, path, runs)
            if found is not None:
                return found
    return Missing(
        f"none of the compiled ones runs here{f' ({asked} was asked for)' * bool(asked)}"
    )


def _loaded(name: str, path: Path, runs: Any) -> Library | None:
    lanes = {"v4": 16, "v3": 8}.get(name, 4)
    if not runs(lanes):
        return None
    code = ctypes.CDLL(str(path))
    code.excise_spmm.argtypes = [POINTER(Matrix), POINTER(Product), POINTER(Finish)]
    code.excise_linear.argtypes = [POINTER(Matrix), POINTER(Product), POINTER(Finish)]
    code.excise_conv.argtypes = [
        POINTER(Matrix), POINTER(Product), POINTER(Window), POINTER(Finish),
    ]  # fmt: skip
    code.excise_direct.argtypes = [
        POINTER(Matrix), POINTER(Product), POINTER(Window), POINTER(Finish), c_int64, c_int64,
    ]  # fmt: skip
    code.excise_depthwise.argtypes = [
        c_void_p, POINTER(Product), POINTER(Window), POINTER(Finish),
    ]  # fmt: skip
    code.excise_largest.argtypes = [POINTER(Product), POINTER(Window)]
    code.excise_mean.argtypes = [POINTER(Product)]
    code.excise_gemv.argtypes = [POINTER(Matrix), c_void_p, c_void_p, POINTER(Finish), c_int64]
    code.excise_gemv_mask.argtypes = [POINTER(Mask), c_void_p, c_void_p, POINTER(Finish), c_int64]
    code.excise_gemv_short.argtypes = [
        POINTER(ShortMatrix), c_void_p, c_void_p, POINTER(Finish), c_int64,
    ]  # fmt: skip
    code.excise_gemv_mask_short.argtypes = [
        POINTER(Mask), c_void_p, c_void_p, POINTER(Finish), c_int64, c_int64,
    ]  # fmt: skip
    code.excise_run.argtypes = [POINTER(Stage), c_int64]
    for kernel in _KERNELS:
        getattr(code, f"excise_{kernel}").restype = c_int
    return Library(name, int(code.excise_lanes()), code, bool(code.excise_dots()))


def _share_threads() -> None:
    """Show the kernels the OpenMP runtime that torch has loaded; without one, the system's."""
    try:
        maps = Path("/proc/self/maps").read_text("utf-8", errors="replace")
    except OSError:
        maps = ""
    found = re.findall(_RUNTIMES, maps) or [ctypes.util.find_library("gomp") or ""]
    if found[0]:
        ctypes.CDLL(found[0], mode=ctypes.RTLD_GLOBAL)
