"""Every kernel computes what plain torch computes, on every instruction set, inside its buffers."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from excise.sparse import reference
from excise.sparse.engine import step
from excise.sparse.engine.layout import Place
from excise.sparse.engine.pattern import Layer
from excise.sparse.engine.step import step_of
from excise.sparse.kernels import (
    Ending,
    Geometry,
    Library,
    Missing,
    bits_of,
    blocks_of,
    library,
    linear,
    product,
)
from excise.sparse.kernels.compile import FLAGS, TARGETS, compile_all, compiler, sources
from excise.sparse.kernels.library import FOLDER, _loaded
from excise.sparse.layer import Way
from tests.sparse.case import (
    CONVS,
    LINEARS,
    PAIRS,
    PLANES,
    check_conv,
    check_gemv,
    check_linear,
    check_pair,
    check_planes,
    sparse,
)

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not isinstance(library(), Library), reason="the kernels were not compiled here"
)


@pytest.fixture(params=["v4", "v3", "base"])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The kernels of one instruction set, where the machine has it."""
    path = FOLDER / f"libexcise-{request.param}.so"
    base = FOLDER / "libexcise-base.so"
    found = path.exists() and _loaded(request.param, path, ctypes.CDLL(str(base)).excise_runs)
    if not found:
        pytest.skip(f"no {request.param} here")
    monkeypatch.setattr(product, "library", lambda: found)
    monkeypatch.setattr(step, "library", lambda: found)
    return request.param


@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_agree_with_torch(instructions: str, threads: int) -> None:
    assert instructions
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for case in LINEARS:
            check_linear(*case)
            check_gemv(case[0], case[1])
        for conv in CONVS:
            check_conv(*conv)
        for planes in PLANES:
            check_planes(*planes)
        for pair in PAIRS:
            check_pair(*pair)
    finally:
        torch.set_num_threads(before)


@settings(max_examples=60)
@given(
    st.tuples(*[st.integers(1, 70)] * 3), st.integers(1, 80), st.integers(1, 8), st.integers(0, 99)
)
def test_any_linear_product(sizes: tuple[int, int, int], block: int, tiles: int, seed: int) -> None:
    torch.manual_seed(seed)
    check_linear(*sizes, block, tiles)
    check_gemv(*sizes[:2])


@settings(max_examples=40)
@given(
    st.tuples(
        st.integers(1, 2), st.integers(1, 9), st.integers(6, 30), st.integers(6, 30),
        st.integers(1, 40), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2),
        st.integers(1, 2),
    )
)  # fmt: skip
def test_any_convolution(case: tuple[int, ...]) -> None:
    torch.manual_seed(sum(case))
    check_conv(*case)


@settings(max_examples=40)
@given(
    st.tuples(
        st.integers(1, 2), st.integers(1, 5), st.integers(9, 40), st.integers(9, 40),
        st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2),
    )
)  # fmt: skip
def test_any_planes(case: tuple[int, ...]) -> None:
    torch.manual_seed(sum(case))
    check_planes(*case)


@settings(max_examples=30)
@given(
    st.tuples(
        st.integers(1, 2), st.integers(1, 9), st.integers(9, 30), st.integers(9, 30),
        st.integers(1, 40), st.integers(1, 5), st.integers(1, 3), st.integers(1, 8),
        st.integers(1, 12), st.integers(1, 20),
    )
)  # fmt: skip
def test_any_pair(case: tuple[int, ...]) -> None:
    torch.manual_seed(sum(case))
    check_pair(*case)


@given(st.integers(1, 40), st.integers(1, 200), st.integers(1, 300), st.integers(0, 99))
def test_the_arrays_hold_the_weight(rows: int, columns: int, block: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight = sparse(rows, columns)
    span = 1 + seed % 20
    made = blocks_of(weight, block, span)
    block = made.sizes[2]
    again = torch.zeros_like(weight)
    pointer = made.pointer.tolist()
    count = -(-columns // block) * rows
    column = made.column.numpy().view(np.uint16).astype(int)
    for i in range(count):
        part, row = i // rows, pointer[count + 1 + i]
        if i % rows and row // span == pointer[count + i] // span:
            assert pointer[i + 1] - pointer[i] <= pointer[i] - pointer[i - 1]
        for j in range(pointer[i], pointer[i + 1]):
            assert column[j] < block
            again[row, part * block + column[j]] = made.value[j]
    assert torch.equal(again, weight)
    assert made.stored == pointer[count] == int(torch.count_nonzero(weight))
    bits = bits_of(weight)
    raw = np.unpackbits(bits.mask.numpy().view(np.uint8), axis=1, bitorder="little")
    assert np.array_equal(raw[:, :columns].astype(bool), weight.numpy() != 0)
    assert not raw[:, columns:].any()


@pytest.mark.parametrize("name", list(reference.ACTIVATIONS))
def test_activations_over_their_range(instructions: str, name: str) -> None:
    assert instructions
    x = torch.cat([torch.linspace(-100, 100, 16000), torch.full((16,), float("nan"))]).view(-1, 16)
    found = linear(blocks_of(torch.eye(16), 16), x, Ending(activation=name), tiles=4)
    wanted = reference.ACTIVATIONS[name](x.double()).float()
    error = (found - wanted).abs() / (1 + wanted.abs())
    assert float(error[:-16].max()) <= 1e-6
    assert bool(found[-16:].isnan().any(1)[-1])


@pytest.mark.parametrize("kind", ["conv", "direct", "depthwise", "largest", "pair"])
def test_what_lies_behind_a_plane_is_cleared(kind: str) -> None:
    """Whole vectors of it are read by the next layer; what other values left there may be slow."""
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    node: Any = None
    deep = Layer("depthwise", node, node, geometry, torch.randn(8, 1, 3, 3))
    layer, way = deep, Way("plane")
    if kind == "pair":
        one = Geometry((1, 1), (1, 1), (0, 0), (1, 1))
        thin = Layer("conv", node, node, one, sparse(8, 8).view(8, 8, 1, 1))
        layer = Layer("pair", node, node, geometry, thin.weight, parts=(thin, deep))
        way = Way("pair", 2, 8, rows=4)
    elif kind != "depthwise":
        layer = Layer("conv", node, node, geometry, sparse(8, 72).view(8, 8, 3, 3))
        layer.kind = "largest" if kind == "largest" else "conv"
        way = Way("direct", 1, 4, rows=2) if kind == "direct" else Way("tiles", 2, 16)
    place = Place((2, 8, 5, 5), 32, ours=True)
    found = step_of(layer, way, place, place)
    assert found is not None
    out = torch.full((2, 8, 32), 7.0)
    found.out = out.as_strided(place.shape, place.stride)
    found(torch.randn(2, 8, 32).as_strided(place.shape, place.stride))
    assert not out[..., 25:].any()
    assert bool((out[..., :25] != 7.0).any())


def test_nan_and_infinity_pass_as_in_torch() -> None:
    weight, x = torch.eye(40), torch.randn(40, 40)
    x[0, 0], x[1, 1], x[2, 2] = float("nan"), float("inf"), float("-inf")
    for name in ("none", "relu", "relu6"):
        found = linear(blocks_of(weight, 16), x, Ending(activation=name), tiles=2)
        assert bool(found[0, 0].isnan())
        assert float(found[1, 1]) == (6.0 if name == "relu6" else float("inf"))
        assert float(found[2, 2]) == (float("-inf") if name == "none" else 0.0)


@pytest.mark.parametrize("name", ["v4", "base"])
def test_no_read_or_write_past_a_buffer(name: str, tmp_path: Path) -> None:
    """With the address sanitizer of the compiler, in a process of its own."""
    words = compiler()
    known: Any = library()
    if words is None or (name == "v4" and known.name != "v4"):
        pytest.skip("no compiler, or another machine")
    runtime = subprocess.run(
        [*words, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("the compiler has no address sanitizer")
    flag = next(iter(t[name] for t in TARGETS.values()))
    path = tmp_path / "asan.so"
    flags = [*FLAGS, flag, "-fsanitize=address", "-g", "-O1", "-shared"]
    command = [*words, *flags, *map(str, sources(FOLDER)), "-o", str(path)]
    assert not subprocess.run(command, check=False).returncode
    ended = subprocess.run(
        [sys.executable, "-m", "tests.sparse.asan", str(path), name],
        cwd=ROOT,
        env=os.environ
        | {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.stdout.endswith("clean\n"), ended.stderr[-3000:]


def test_without_kernels_it_is_said_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ask: Any = library.__wrapped__
    monkeypatch.setenv("EXCISE_KERNELS", "none")
    assert ask() == Missing("EXCISE_KERNELS=none")
    monkeypatch.setenv("EXCISE_KERNELS", "v9")
    assert "v9 was asked for" in ask().why
    monkeypatch.delenv("EXCISE_KERNELS")
    monkeypatch.setattr(sys.modules["excise.sparse.kernels.library"], "FOLDER", tmp_path)
    assert "compiler" in ask().why
    (tmp_path / "libexcise-base.so").write_bytes(b"no library")
    assert "cannot be loaded" in ask().why


def test_a_build_without_a_compiler_makes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert compiler() is None
    assert compile_all(tmp_path) == []
