"""Calibration data of every usual form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from excise.calibration import batches
from excise.errors import CalibrationError

X, Y = torch.randn(6, 3), torch.arange(6)
ONE = (X[:1],)


@pytest.mark.parametrize(
    "given",
    [X, [X[:4], X[4:]], [(X[:4], Y[:4]), (X[4:], Y[4:])], DataLoader(TensorDataset(X, Y), 4),
     [[X]], {"x": X, "labels": Y}],
)  # fmt: skip
def test_positional_forms(given: Any) -> None:
    found = batches(given, ONE, {})
    assert torch.equal(torch.cat([batch.args[0] for batch in found]), X)
    assert all(len(batch.args) == 1 and not batch.kwargs for batch in found)


def test_keyword_forms() -> None:
    named = {"ids": X[:1], "mask": Y[:1]}
    for given in ([{"ids": X, "mask": Y, "labels": Y}], [(X, Y)]):
        (found,) = batches(given, (), named)
        assert not found.args
        assert set(found.kwargs) == {"ids", "mask"}
        assert torch.equal(found.kwargs["ids"], X)


def test_enough_samples_are_enough() -> None:
    assert [b.samples for b in batches(X.split(2), ONE, {}, samples=3)] == [2, 2]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "no batch"),
        (3, "int holds no batches"),
        (["text"], "batch 0 is a str"),
        ([(X,)], "has 1 inputs of 2"),
        ([{"x": X}], "has no 'mask'"),
    ],
)
def test_what_is_no_input_is_refused(given: Any, says: str) -> None:
    named = {"x": X, "mask": Y} if given == [{"x": X}] or "mask" in says else {}
    with pytest.raises(CalibrationError, match=says):
        batches(given, () if named else (X, Y), named)
