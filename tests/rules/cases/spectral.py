"""Cases: Fourier transforms."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.rules.oracle import Case, imaginary, real

WINDOW = torch.ones(4, dtype=torch.float64)


def _stft(x: Tensor) -> Tensor:
    return torch.stft(x, 4, return_complex=True, window=WINDOW)


def _istft(x: Tensor) -> Tensor:
    return torch.istft(x, 4, window=WINDOW)


CASES = (
    Case("fft", "n C -> n K", torch.fft.fft, (imaginary(3, 4),)),
    Case("fft of real numbers", "n C -> n K", torch.fft.fft, (real(3, 4),)),
    Case("rfft", "n C h -> n K h", lambda x: torch.fft.rfft(x, dim=1), (real(2, 5, 3),)),
    Case(
        "irfft", "n C h -> n K h", lambda x: torch.fft.irfft(x, n=5, dim=1), (imaginary(2, 3, 3),)
    ),
    Case("fft2", "c H W -> c U V", torch.fft.fft2, (imaginary(2, 3, 4),)),
    Case("rfft2", "c H W -> c U V", torch.fft.rfft2, (real(2, 3, 4),)),
    Case(
        "fft filter",
        "n c H W, c U V -> n c T S",
        lambda x, w: torch.fft.irfft2(torch.fft.rfft2(x) * w, s=(4, 6)),
        (real(2, 3, 4, 6), imaginary(3, 4, 4)),
    ),
    Case("stft", "b T -> b F U", _stft, (real(2, 16),)),
    Case(
        "stft as written",
        "B T -> C D E",
        _stft,
        (real(2, 16),),
        written=lambda x: ("stft", (x, 4), {}),
    ),
    Case(
        "istft as written",
        "B F U -> C T",
        _istft,
        (imaginary(2, 3, 17),),
        written=lambda x: ("istft", (x, 4), {}),
    ),
)
