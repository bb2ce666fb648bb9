"""Where our own kernels are missing, torch's product is tried, trusted or not, and said so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from excise.sparse import SparseConv2d, SparseLinear, Way, reference, sparsify
from excise.sparse.kernels import Borrowed, Ending, Geometry, Library, Missing, available, library
from excise.sparse.kernels import borrowed as lent
from excise.sparse.layer import LENT
from tests.sparse.case import sparse
from tests.sparse.test_sparsify import decided, masked, net

ROOT = Path(__file__).parents[2]
needs_product = pytest.mark.skipif(
    not isinstance(lent.lent(), Borrowed), reason="torch carries no sparse product here"
)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing was compiled."""
    monkeypatch.setattr(lent, "library", lambda: Missing("no compiler"))


@needs_product
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 50), st.integers(0, 99))
def test_any_product(rows: int, columns: int, tokens: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight, x, bias = sparse(rows, columns), torch.randn(tokens, columns), torch.randn(rows)
    for added in (None, bias):
        found = lent.linear(lent.rows_of(weight), x, added)
        assert found.is_contiguous()
        assert torch.allclose(found, reference.linear(weight, x, Ending(added)), atol=1e-4)


@needs_product
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    pairs = [(n, n) for n in (kernel, stride, kernel // 2, 1)]
    geometry, weight = Geometry(*pairs), sparse(8, 6 * kernel * kernel)
    x, bias = torch.randn(2, 6, 9, 12), torch.randn(8)
    wanted = reference.conv2d(weight.view(8, 6, kernel, kernel), x, geometry, Ending(bias))
    found = lent.conv2d(lent.rows_of(weight), x, geometry, bias)
    assert torch.allclose(found, wanted, atol=1e-4)


@needs_product
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("without")
def test_layers_run_by_it_where_nothing_else_is(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    pairs: list[tuple[Any, Any, Tensor]] = []
    linear, conv = masked(nn.Linear(40, 24)), masked(nn.Conv2d(6, 8, 3, padding=1))
    pairs.append((linear, SparseLinear.of(linear), torch.randn(3, 5, 40)))
    pairs.append((conv, SparseConv2d.of(conv), torch.randn(2, 6, 9, 12)))
    for dense, layer, x in pairs:
        layer.way = Way("mask")  # as it was timed elsewhere
        with torch.no_grad():
            wanted, found = dense(x), layer.to(dtype)(x.to(dtype))
        assert layer.way == LENT
        assert found.dtype is dtype
        close = 1e-4 if dtype is torch.float32 else 0.05
        assert torch.allclose(found.float(), wanted, atol=close)


@needs_product
@pytest.mark.skipif(not isinstance(library(), Library), reason="no kernels here")
def test_a_layer_of_a_machine_without_kernels_runs_by_them_where_there_are() -> None:
    layer: Any = SparseLinear.of(masked(nn.Linear(40, 24)))
    layer.way = LENT
    with torch.no_grad():
        layer(torch.randn(3, 40))
    assert layer.way == Way()


@needs_product
@pytest.mark.usefixtures("without")
def test_models_say_what_they_run_by(monkeypatch: pytest.MonkeyPatch) -> None:
    decided(monkeypatch, 2.0)
    x, model = torch.randn(2, 3, 16, 16), net()
    made = sparsify(model, x)
    assert made.swapped
    assert "no compiler" in made.why
    with torch.no_grad():
        assert torch.allclose(made.model(x), model(x), atol=1e-5)


def test_a_product_that_gives_other_numbers_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(offset: float) -> Callable[..., None]:
        def product(found: Any, a: Any, x: Tensor, y: Tensor) -> None:
            del found
            weight, row = torch.zeros(a.sizes), torch.arange(a.sizes[0])
            weight[row.repeat_interleave(a.pointer.diff()), a.column.long()] = a.value
            y.copy_(weight @ x + offset)

        return product

    monkeypatch.setattr(lent, "_product", told(0.0))
    assert lent._works(Borrowed(None))
    monkeypatch.setattr(lent, "_product", told(0.1))
    assert not lent._works(Borrowed(None))


@pytest.mark.usefixtures("without")
def test_what_is_missing_is_said_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lent, "lent", lambda: Missing("torch carries none"))
    assert available() == Missing("no compiler; torch carries none")
    layer: Any = SparseLinear.of(masked(nn.Linear(40, 24)))
    assert not layer.native(torch.randn(2, 40))
    monkeypatch.setenv("EXCISE_KERNELS", "none")
    assert available() == Missing("no compiler")


def test_a_name_that_torch_does_not_have_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    ask: Any = lent.lent.__wrapped__
    monkeypatch.setattr(lent, "NAME", "no_such_name")
    assert "carries no sparse product" in ask().why
    monkeypatch.setattr(lent, "_works", lambda _: False)
    monkeypatch.setattr(lent, "NAME", "THPVariable_Wrap")
    assert isinstance(ask(), Missing)


@needs_product
def test_the_surroundings_can_ask_for_it() -> None:
    code = "from excise.sparse.kernels import available; print(available())"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"EXCISE_KERNELS": "torch"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert ended.stdout.startswith("Borrowed(")
    assert "EXCISE_KERNELS=torch" in ended.stdout
