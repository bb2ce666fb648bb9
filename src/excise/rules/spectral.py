"""Fourier transforms: frequencies are new, the other dimensions are carried on."""

from __future__ import annotations

from excise.axes import Term
from excise.rules.table import Scope, rule
from excise.trace import Op


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fft(s: Scope, op: Op) -> None:
    """A transform over some dimensions: their units are mixed and renumbered."""
    dims: list[Term] = s.get(op.args[0])
    for d in op.args[1]:
        s.pin(dims[d], "a Fourier transform runs over it")
        dims[d] = s.fresh(s.shape(op.outs[0])[d], "frequencies")
    s.put(op.outs[0], dims)


@rule("stft", "istft")
def stft(s: Scope, op: Op) -> None:
    """Windows and frequencies."""
    for out in op.outs:
        s.put(out, [s.fresh(n, "frequencies") for n in s.shape(out)])
    for term in s.get(op.args[0]):
        s.pin(term, "a Fourier transform runs over it")
