"""Embeddings, recurrence, one-dimensional convolution, transforms, state spaces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from suites.micro import case


def words(length: int = 7) -> Tensor:
    """Token numbers below 30."""
    return torch.randint(0, 30, (2, length), generator=torch.Generator().manual_seed(0))


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.position = nn.Parameter(torch.randn(1, 12, 16))
        self.body = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 48), nn.GELU(), nn.Linear(48, 16))
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to logits."""
        y = self.embed(x) + self.position[:, : x.shape[1]]
        return self.head(y + self.body(y))  # type: ignore[no-any-return]


@case()
def weight_tying() -> Any:
    return Tied(), (words(),)


class Recurrent(nn.Module):
    """An embedding, a recurrent layer, a head over the last step."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.rnn = kind(12, 16, batch_first=True, **options)
        self.head = nn.Linear(32 if options.get("bidirectional") else 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Reads the last step."""
        y, _ = self.rnn(self.embed(x))
        return self.head(y[:, -1])  # type: ignore[no-any-return]


@case()
def lstm() -> Any:
    return Recurrent(nn.LSTM), (words(),)


@case()
def gru_stacked() -> Any:
    return Recurrent(nn.GRU, num_layers=2), (words(),)


@case()
def lstm_both_ways() -> Any:
    return Recurrent(nn.LSTM, bidirectional=True), (words(),)


@case()
def rnn_plain() -> Any:
    return Recurrent(nn.RNN, nonlinearity="relu"), (words(),)


class Cell(nn.Module):
    """A recurrent cell in a Python loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 16), nn.Linear(16, 3)
        self.hidden = 16

    def forward(self, x: Tensor) -> Tensor:
        """One step for each position."""
        h = x.new_zeros(x.shape[0], self.hidden)
        for step in x.unbind(1):
            h = self.cell(step, h)
        return self.head(h)  # type: ignore[no-any-return]


@case()
def cell_in_a_loop() -> Any:
    return Cell(), (torch.randn(2, 5, 6),)


@case()
def convolution_1d() -> Any:
    return nn.Sequential(
        nn.Conv1d(6, 16, 3, padding=1), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 24, 3),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 3),
    ), (torch.randn(2, 6, 20),)  # fmt: skip


class Bag(nn.Module):
    """Sums of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(30, 16, mode="sum")
        self.body = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        """A bag for each row."""
        return self.body(self.bag(x))  # type: ignore[no-any-return]


@case()
def embedding_bag() -> Any:
    return Bag(), (words(),)


class Spectral(nn.Module):
    """FNet's mixing: a transform over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 24), nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        """The channels are carried through."""
        y = torch.fft.fft(self.up(x), dim=1).real
        return self.down(F.relu(y))  # type: ignore[no-any-return]


@case()
def fourier_over_positions() -> Any:
    return Spectral(), (torch.randn(2, 6, 8),)


class StateSpace(nn.Module):
    """A selective scan as Mamba writes it in plain torch."""

    def __init__(self, width: int = 16, state: int = 4) -> None:
        super().__init__()
        self.state, self.inner = state, 2 * width
        self.inp = nn.Linear(width, 4 * width, bias=False)
        self.conv = nn.Conv1d(self.inner, self.inner, 3, padding=2, groups=self.inner)
        self.params = nn.Linear(self.inner, 2 + 2 * state, bias=False)
        self.step = nn.Linear(2, self.inner)
        self.a_log = nn.Parameter(torch.rand(self.inner, state))
        self.d = nn.Parameter(torch.ones(self.inner))
        self.out = nn.Linear(self.inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """One step of the scan for each position."""
        length = x.shape[1]
        u, gate = self.inp(x).transpose(1, 2).chunk(2, dim=1)
        u = F.silu(self.conv(u)[..., :length])
        time, b, c = torch.split(self.params(u.mT), [2, self.state, self.state], -1)
        delta = F.softplus(self.step(time)).mT
        decay = torch.exp(-torch.exp(self.a_log)[None, :, None] * delta[..., None])
        drive = delta[..., None] * b[:, None] * u[..., None]
        h = x.new_zeros(x.shape[0], self.inner, self.state)
        seen = []
        for i in range(length):
            h = decay[:, :, i] * h + drive[:, :, i]
            seen.append((h @ c[:, i, :, None])[..., 0])
        y = torch.stack(seen, -1) + u * self.d[None, :, None]
        return self.out((y * F.silu(gate)).mT)  # type: ignore[no-any-return]


@case()
def selective_scan() -> Any:
    return nn.Sequential(nn.Linear(6, 16), StateSpace(), nn.Linear(16, 3)), (torch.randn(1, 5, 6),)


class Mixer(nn.Module):
    """MLP-Mixer: a linear layer over positions, which are not ours to cut."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.positions = nn.Sequential(nn.Linear(7, 20), nn.GELU(), nn.Linear(20, 7))
        self.channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Over positions, then over channels."""
        x = self.embed(x)
        x = x + self.positions(x.mT).mT
        return self.head((x + self.channels(x)).mean(1))  # type: ignore[no-any-return]


@case()
def mixer() -> Any:
    return Mixer(), (torch.randn(2, 7, 6),)
