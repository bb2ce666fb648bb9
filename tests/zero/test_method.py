"""Zeros in one layer: where they may stand, and what is made up for."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from excise.errors import InvalidTargetError
from excise.zero import METHODS, Pattern
from excise.zero.allocate import allocated
from excise.zero.method import Layer

PATTERNS = ["unstructured", "2:4", "1:4", "4:8", "block:4x1", "block:2x2", "block"]


def layer(rows: int = 16, columns: int = 24, groups: int = 1, seed: int = 0) -> Layer:
    """Features that depend on each other, as real ones do."""
    source = torch.Generator().manual_seed(seed)
    few = torch.randn(groups, 400, columns // 3, generator=source, dtype=torch.float64)
    mix = torch.randn(groups, columns // 3, columns, generator=source, dtype=torch.float64)
    noise = torch.randn(groups, 400, columns, generator=source, dtype=torch.float64)
    x = few @ mix + 0.3 * noise
    weight = torch.randn(groups, rows, columns, generator=source, dtype=torch.float64)
    return Layer(weight, x.mT @ x / 400)


def _obeys(weight: Tensor, pattern: Pattern) -> bool:
    there = weight != 0
    if pattern.m:
        return bool((there.reshape(-1, pattern.m).sum(1) <= pattern.n).all())
    groups, rows, columns = weight.shape
    grid = there.reshape(
        groups, rows // pattern.rows, pattern.rows, columns // pattern.columns, pattern.columns
    )
    return bool((grid.any(4).any(2) == grid.all(4).all(2)).all())


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("groups", [1, 3])
def test_zeros_stand_where_the_pattern_has_them(method: str, name: str, groups: int) -> None:
    pattern = Pattern.of(name)
    given_layer = layer(groups=groups)
    made = METHODS[method](given_layer, pattern, pattern.zeros or 0.5)
    assert _obeys(made, pattern)
    share = float((made == 0).double().mean())
    assert share == pytest.approx(pattern.zeros or 0.5, abs=0.02)
    assert bool(made.isfinite().all())


@pytest.mark.parametrize("name", PATTERNS)
def test_what_looks_at_features_loses_less(name: str) -> None:
    pattern = Pattern.of(name)
    lost = {
        method: sum(
            float(one.loss(METHODS[method](one, pattern, pattern.zeros or 0.6)).sum())
            for one in (layer(seed=seed) for seed in range(4))
        )
        for method in METHODS
    }
    assert lost["sparsegpt"] < lost["magnitude"]
    assert lost["admm"] < lost["sparsegpt"]
    assert lost["admm"] < 0.7 * lost["wanda"]


def test_admm_comes_near_the_best_support() -> None:
    """By trying all supports of single rows of six weights, three of which stay."""
    found = best = 0.0
    for seed in range(6):
        one = layer(rows=1, columns=6, seed=seed)
        found += float(one.loss(METHODS["admm"](one, Pattern.of("unstructured"), 0.5)).sum())
        losses = []
        for kept in itertools.combinations(range(6), 3):
            support = list(kept)
            gram = one.gram[0][support][:, support]
            right = (one.weight[0] @ one.gram[0])[0, support]
            weight = torch.zeros_like(one.weight)
            weight[0, 0, support] = torch.linalg.solve(gram, right)
            losses.append(float(one.loss(weight).sum()))
        best += min(losses)
    assert best <= found <= 1.35 * best


def test_admm_solves_its_support_to_the_end() -> None:
    one = layer()
    made = METHODS["admm"](one, Pattern.of("unstructured"), 0.5)
    kept = made != 0
    damped = one.gram + 0.01 * one.gram[0].diagonal().mean() * torch.eye(24)
    slope = ((made - one.weight) @ damped)[kept]
    scale = (one.weight @ damped)[kept]
    assert float(slope.abs().max()) < 1e-3 * float(scale.abs().max())


def test_wanda_takes_alike_from_every_row() -> None:
    made = METHODS["wanda"](layer(), Pattern.of("unstructured"), 0.75)
    assert set((made != 0).sum(2).flatten().tolist()) == {6}


@pytest.mark.parametrize(
    "name", ["", "csr", "0:4", "4:4", "5:4", "2:", "block:0x1", "block:4", 3, None]
)
def test_what_is_no_pattern_is_refused(name: object) -> None:
    with pytest.raises(InvalidTargetError, match="2:4"):
        Pattern.of(name)  # type: ignore[arg-type]


@given(
    st.sampled_from(["uniform", "erk", "lamp"]),
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6),
    st.floats(0.05, 0.98),
)
def test_layers_together_take_what_is_asked(
    how: str, shapes: list[tuple[int, int]], zeros: float
) -> None:
    source = torch.Generator().manual_seed(0)
    worths = {str(i): torch.rand(1, *shape, generator=source) for i, shape in enumerate(shapes)}
    shares = allocated(how, worths, zeros)
    total = sum(worth.numel() for worth in worths.values())
    taken = sum(shares[name] * worth.numel() for name, worth in worths.items())
    slack = (len(shapes) if how == "lamp" else 1e-6) / total
    assert abs(taken / total - zeros) <= slack + 1e-3
    assert all(0 <= share <= 1 for share in shares.values())


def test_erk_spares_narrow_layers_and_owl_spares_outliers() -> None:
    worths = {"wide": torch.ones(1, 100, 100), "narrow": torch.ones(1, 10, 10)}
    shares = allocated("erk", worths, 0.8)
    assert shares["narrow"] < 0.3 < shares["wide"]
    worths = {"even": torch.ones(1, 50, 50), "odd": torch.ones(1, 50, 50)}
    worths["odd"][0, 0] = 1000
    shares = allocated("owl", worths, 0.7)
    assert shares["odd"] < 0.7 < shares["even"]


def test_an_unknown_allocation_is_refused() -> None:
    with pytest.raises(InvalidTargetError, match="owl"):
        allocated("best", {"a": torch.ones(1, 2, 2)}, 0.5)
