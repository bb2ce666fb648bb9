"""scikit-learn's digits: they ship in its wheel, so nothing is downloaded."""

from __future__ import annotations

import importlib
from typing import NamedTuple

import torch
from torch import Tensor

from excise.errors import RequestError

_WHITE = 16.0
_TESTED = 450


class Split(NamedTuple):
    """Images `(n, 1, 8, 8)` in [0, 1] and labels `(n,)`, to train on and to test on."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits() -> Split:
    """All 1,797 handwritten digits, 450 of them for the test, shuffled with a fixed seed.

    Raises:
        RequestError: scikit-learn is not installed.

    Source:
        E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998, the test
        set; as in `sklearn.datasets.load_digits`.
    """
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        do = "pip install 'excise[demo]'"
        raise RequestError("the demo needs scikit-learn's digits", "import sklearn", do) from error
    raw = datasets.load_digits()
    images = torch.from_numpy(raw.images).float().unsqueeze(1) / _WHITE
    labels = torch.from_numpy(raw.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:_TESTED], order[_TESTED:]
    return Split(images[train], labels[train], images[test], labels[test])
