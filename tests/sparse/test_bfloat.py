"""Weights and activations of bfloat16: half the bytes for one row, and sums in float32."""

from __future__ import annotations

import copy
import ctypes
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from excise.sparse import SparseConv2d, SparseLinear, Way, reference, sparsify
from excise.sparse.kernels import Bits, Blocks, Library, bits_of, blocks_of, gemv, library
from excise.sparse.kernels import product as products
from excise.sparse.kernels.library import FOLDER, _loaded
from tests.sparse.case import endings, sparse
from tests.sparse.test_sparsify import decided

pytestmark = pytest.mark.skipif(
    not isinstance(library(), Library), reason="the kernels were not compiled here"
)
_CLOSE = 1e-5  # of the sum of magnitudes that went into an output


@pytest.fixture(params=["v4", "v4 without dots", "v3", "base"])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernels of one instruction set, where the machine has it."""
    name = request.param.partition(" ")[0]
    path, base = FOLDER / f"libexcise-{name}.so", FOLDER / "libexcise-base.so"
    found = path.exists() and _loaded(name, path, ctypes.CDLL(str(base)).excise_runs)
    if not found:
        pytest.skip(f"no {name} here")
    if "without" in request.param:
        found = found._replace(dots=False)
    monkeypatch.setattr(products, "library", lambda: found)
    return str(request.param)


def both(weight: Tensor) -> tuple[Blocks, Bits]:
    """A weight of bfloat16 in both formats."""
    blocks, bits = blocks_of(weight.float(), 1 << 16), bits_of(weight.float())
    return (
        blocks._replace(value=blocks.value.bfloat16()),
        bits._replace(value=bits.value.bfloat16()),
    )


def check(rows: int, columns: int) -> None:
    """Both formats with every ending, against float32 on the same numbers."""
    weight, x = sparse(rows, columns).bfloat16(), torch.randn(columns).bfloat16()
    size = float((weight.float().abs() @ x.float().abs()).max())
    for ending in endings(torch.empty(rows), rows):
        wanted = reference.linear(weight.float(), x.float()[None], ending)[0]
        for a in both(weight):
            found = gemv(a, x, ending)
            assert found.dtype is torch.float32
            assert bool(((found - wanted).abs() <= _CLOSE * max(1.0, size)).all())


@pytest.mark.parametrize("threads", [1, 2])
def test_one_row_agrees_with_float32(instructions: str, threads: int) -> None:
    assert instructions
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows, columns in ((1, 1), (5, 7), (33, 130), (17, 64), (64, 1000), (3, 4096)):
            check(rows, columns)
    finally:
        torch.set_num_threads(before)


@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 99))
def test_any_weight(rows: int, columns: int, seed: int) -> None:
    torch.manual_seed(seed)
    check(rows, columns)


def layers(kind: str) -> tuple[Any, Any, Tensor]:
    """A dense layer of bfloat16 with zeros, its sparse form, an input."""
    torch.manual_seed(0)
    dense: Any = nn.Linear(40, 24) if kind == "linear" else nn.Conv2d(6, 8, 3, stride=2, padding=1)
    with torch.no_grad():
        dense.weight.mul_(torch.rand_like(dense.weight) > 0.8)
    dense = dense.bfloat16()
    if kind == "linear":
        return dense, SparseLinear.of(dense), torch.randn(3, 5, 40).bfloat16()
    return dense, SparseConv2d.of(dense), torch.randn(2, 6, 15, 12).bfloat16()


def exact(dense: Any, x: Tensor) -> Tensor:
    """In float32, rounded once."""
    with torch.no_grad():
        out: Tensor = copy.deepcopy(dense).float()(x.float()).bfloat16()
    return out


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_layer_rounds_once(kind: str) -> None:
    dense, layer, x = layers(kind)
    with torch.no_grad():
        assert layer.native(x)
        found = layer(x)
        assert found.dtype is torch.bfloat16
        wanted = exact(dense, x).float()
        apart = (found.float() - wanted).abs()
        assert bool((apart <= 2**-8 * wanted.abs() + 1e-6).all())  # a last bit, where sums tie


@pytest.mark.parametrize("way", ["gemv", "mask"])
def test_one_row_of_a_layer_keeps_its_type(way: str) -> None:
    dense, layer, x = layers("linear")
    layer.way = Way(way)
    with torch.no_grad():
        found = layer(x[0, 0])
        wanted = exact(dense, x[0, 0]).float()
        assert found.dtype is torch.bfloat16
        assert bool(((found.float() - wanted).abs() <= 2**-8 * wanted.abs() + 1e-6).all())
        assert layer.arrays(layer.way).value.dtype is torch.bfloat16


def test_values_of_one_type_and_inputs_of_another_run_dense() -> None:
    _, layer, x = layers("linear")
    assert not layer.native(x.float())
    assert not layer.native(x.half())


def test_a_model_of_bfloat16_runs_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 128)).eval()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.mul_(torch.rand_like(layer.weight) > 0.9)
    model, x = model.bfloat16(), torch.randn(32, 256).bfloat16()
    decided(monkeypatch, 2.0)
    made = sparsify(model, x)
    assert made.swapped == ("0", "2")
    with torch.no_grad():
        wanted = model(x).float()
        assert float((made.model(x).float() - wanted).abs().max()) <= 0.02 * wanted.abs().max()
