"""Recurrent layers in which units come in pairs, and a slow reference of what they compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LENGTHS = torch.tensor([3, 5, 1, 4])


class Sequences(nn.Module):
    """A linear layer of pairs, a recurrent layer of pairs, and a head.

    Input and hidden unit `i + half` is unit `i` once more. `lengths` packs a batch of sequences.
    """

    def __init__(self, kind: str, *, width: int = 8, packed: bool = False, **options: Any) -> None:
        super().__init__()
        self.packed = packed
        self.embed = nn.Linear(3, width)
        self.core = getattr(nn, kind)(width, width, batch_first=True, **options)
        made = options.get("proj_size", width) * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(made, 5)
        self.double().eval()
        with torch.no_grad():
            for tensor in self.embed.parameters():
                tensor[width // 2 :] = tensor[: width // 2]
            for name, tensor in self.core.named_parameters():
                tensor.mul_(2.5)
                halves = tensor.unflatten(0, (-1, width)) if "_hr_" not in name else tensor[None]
                half = halves.shape[1] // 2
                halves[:, half:] = halves[:, :half]

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:  # noqa: D102
        x = self.embed(x).tanh()
        if self.packed:
            wrapped = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            made = pad_packed_sequence(self.core(wrapped)[0], batch_first=True)[0]
        else:
            made = self.core(x)[0]
        out: Tensor = self.head(made)
        return out


def sequences(kind: str, *, seed: int = 0, **options: Any) -> Sequences:
    """The network with random weights, in float64 and eval mode."""
    torch.manual_seed(seed)
    return Sequences(kind, **options)


Rows = dict[tuple[str, int, int], list[Tensor]]


def walked(core: Any, every: list[Tensor]) -> Rows:
    """What each weight reads, of sequences (steps, features), each walked step by step.

    Returns:
        (reads, layer, direction) -> for each sequence (steps, features).
    """
    found: Rows = {}
    for layer in range(core.num_layers):
        sides = []
        for direction in range(2 if core.bidirectional else 1):
            end = f"_l{layer}" + ("_reverse" if direction else "")
            walks = [_walk(core, end, x.flip(0) if direction else x) for x in every]
            for place, reads in enumerate(("input", "state", "cell", "")):
                rows = [walk[place].flip(0) if direction else walk[place] for walk in walks]
                found[reads, layer, direction] = rows
            sides.append(found.pop(("", layer, direction)))
        every = [torch.cat(both, 1) for both in zip(*sides, strict=True)]
    return found


def _walk(core: Any, end: str, x: Tensor) -> tuple[Tensor, ...]:
    """Inputs, states before, cells' outputs, and states after one sequence's steps."""
    given = dict(core.named_parameters())
    read, loop = given["weight_ih" + end], given["weight_hh" + end]
    b, c = (given.get(name + end, torch.zeros(len(read)).to(x)) for name in ("bias_ih", "bias_hh"))
    project = given.get("weight_hr" + end)
    h, cell = torch.zeros(loop.shape[1]).to(x), torch.zeros(core.hidden_size).to(x)
    before, cells, after = [], [], []
    for now in x:
        before.append(h)
        first, second = read @ now + b, loop @ h + c
        if core.mode == "GRU":
            (r, z, n), (r2, z2, n2) = first.chunk(3), second.chunk(3)
            r, z = (r + r2).sigmoid(), (z + z2).sigmoid()
            made = (1 - z) * (n + r * n2).tanh() + z * h
        elif core.mode == "LSTM":
            i, f, g, o = (first + second).chunk(4)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            made = o.sigmoid() * cell.tanh()
        else:
            made = (first + second).tanh() if "TANH" in core.mode else (first + second).relu()
        h = made if project is None else project @ made
        cells.append(made)
        after.append(h)
    return x, torch.stack(before), torch.stack(cells), torch.stack(after)
