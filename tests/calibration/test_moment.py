"""Moments of few rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import oas

from excise.calibration import Moments


@pytest.mark.parametrize("count", [5, 40, 4000])
def test_the_shrunk_covariance_is_that_of_scikit_learn(count: int) -> None:
    source = torch.Generator().manual_seed(count)
    mixed = torch.randn(2, 30, 30, generator=source)
    rows = torch.randn(2, count, 30, generator=source) @ mixed + 1.0
    found = Moments.of(rows).shrunk()
    for made, part in zip(found, rows, strict=True):
        wanted, share = oas(part.double().numpy())
        assert 0 < share < 1
        np.testing.assert_allclose(made.numpy(), wanted, atol=1e-5 * np.abs(wanted).max())
        assert torch.linalg.eigvalsh(made).min() > 0


def test_what_is_constant_is_not_shrunk_into_something() -> None:
    assert not Moments.of(torch.ones(1, 8, 3)).shrunk().any()
