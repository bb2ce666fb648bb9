"""Calibration data of every usual form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from excise.calibration import batches, share
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
    named = {"ids": X.clone(), "mask": Y.clone()}
    for given in ([{"ids": X, "mask": Y, "labels": Y}], [(X, Y)]):
        (found,) = batches(given, (), named)
        assert not found.args
        assert set(found.kwargs) == {"ids", "mask"}
        assert torch.equal(found.kwargs["ids"], X)


def test_enough_samples_are_enough() -> None:
    assert [b.samples for b in batches(X.split(2), (X[:2],), {}, samples=3)] == [2, 2]


def test_few_batches_become_more_so_that_some_can_be_held_out() -> None:
    images, labels = torch.randn(64, 3), torch.arange(64)
    found = batches(images, ONE, {})
    assert [batch.samples for batch in found] == [13, 13, 13, 13, 12]
    assert share(found).judges == {4}
    found = batches([(images, labels), (images, labels)], (X[:1], Y[:1]), {})
    assert [batch.samples for batch in found] == [22, 22, 20] * 2
    assert torch.equal(torch.cat([b.args[1] for b in found]), torch.cat([labels, labels]))
    assert len(batches(images.split(8), ONE, {})) == 8
    named = batches({"x": images, "scale": 2.0, "at": labels}, (), {"x": X[:1], "scale": 1.0})
    assert [b.kwargs["scale"] for b in named] == [2.0] * 5


def test_a_batch_is_cut_only_where_its_first_length_is_free() -> None:
    """A sequence may come first: five pieces of a sentence are no five sentences."""
    assert len(batches(X, (X.clone(),), {})) == 1
    assert len(batches([(X, Y[:3])], (X[:1], Y[:1]), {})) == 1
    assert len(batches([X[:1]], (X,), {})) == 1


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
