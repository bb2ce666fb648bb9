"""Cases: new tensors."""

from __future__ import annotations

import torch

from tests.rules.oracle import Case, real

aten = torch.ops.aten
X = (real(3, 4),)


def _case(name: str, claim: str, function: object, *, noisy: bool = False) -> Case:
    return Case(name, claim, function, X, ((3, 4),), noisy=noisy)  # type: ignore[arg-type]


FREE, FIXED, NOISE = "n c -> a b", "n c -> A B", "n c -> a* b*"
CASES = (
    _case("zeros", FREE, lambda _, to: torch.zeros(to[0])),
    _case("ones", FREE, lambda _, to: torch.ones(to[0])),
    _case("full", FREE, lambda _, to: torch.full(to[0], 2.0)),
    _case("new_zeros", FREE, lambda x, to: x.new_zeros(to[0])),
    _case("new_ones", FREE, lambda x, to: x.new_ones(to[0])),
    _case("new_full", FREE, lambda x, to: x.new_full(to[0], 2.0)),
    _case("empty", FREE, lambda _, to: torch.empty(to[0]), noisy=True),
    _case("new_empty", FREE, lambda x, to: x.new_empty(to[0]), noisy=True),
    _case("empty_strided", FREE, lambda _, to: torch.empty_strided(to[0], (9, 1)), noisy=True),
    _case("new_empty_strided", FREE, lambda x, to: x.new_empty_strided(to[0], (9, 1)), noisy=True),
    _case("empty_permuted", FREE, lambda _, to: torch.empty_permuted(to[0], (1, 0)), noisy=True),
    _case("rand", NOISE, lambda _, to: torch.rand(to[0]), noisy=True),
    _case("randn", NOISE, lambda _, to: torch.randn(to[0]), noisy=True),
    _case("randint", NOISE, lambda _, to: torch.randint(9, to[0]), noisy=True),
    Case("scalar_tensor", "n c -> ()", lambda _: aten.scalar_tensor(2.0), X),
    Case("arange", "n c -> A", lambda _: torch.arange(4), X),
    Case("linspace", "n c -> A", lambda _: torch.linspace(0, 1, 4), X),
    Case("logspace", "n c -> A", lambda _: torch.logspace(0, 1, 4), X),
    Case("eye", FIXED, lambda _: torch.eye(3), X),
    Case("tril_indices", FIXED, lambda _: torch.tril_indices(3, 3), X),
    Case("triu_indices", FIXED, lambda _: torch.triu_indices(3, 3), X),
    Case("randperm", "n c -> A", lambda _: torch.randperm(4), X, noisy=True),
    Case("hann_window", "n c -> A", lambda _: torch.hann_window(4), X),
    Case("hamming_window", "n c -> A", lambda _: torch.hamming_window(4), X),
    Case("bartlett_window", "n c -> A", lambda _: torch.bartlett_window(4), X),
    Case("blackman_window", "n c -> A", lambda _: torch.blackman_window(4), X),
)
