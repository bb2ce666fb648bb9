"""Whole networks: a front, drawn blocks, and a head; inputs by place or by name."""

# ruff: noqa: D102 - the class says what its forward does

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from tests.laws.token import norm

SIDE, POSITIONS, VOCABULARY, CLASSES = 4, 5, 11, 3


class Image(nn.Module):
    """An image classifier with one of several heads."""

    def __init__(self, blocks: Sequence[nn.Module], widths: tuple[int, int], head: str) -> None:
        super().__init__()
        first, last = widths
        self.stem, self.blocks = nn.Conv2d(3, first, 3, padding=1), nn.Sequential(*blocks)
        self.head, self.features = head, last * SIDE * SIDE
        flat = {"flatten": self.features, "view": self.features}.get(head, last)
        self.fc = nn.Linear(flat, CLASSES)
        self.hidden = nn.Linear(flat, 6) if head == "dict" else None
        self.map = nn.Conv2d(last, CLASSES, 1) if head == "conv" else None

    def forward(self, image: Tensor) -> Any:
        x = self.blocks(F.relu(self.stem(image)))
        if self.map is not None:
            return self.map(x).mean([2, 3])
        if self.head == "flatten":
            return self.fc(torch.flatten(x, 1))
        if self.head == "view":
            return self.fc(x.reshape(-1, self.features))
        x = F.adaptive_avg_pool2d(x, 1)
        if self.head == "squeeze":
            return self.fc(x.squeeze(-1).squeeze(-1))
        x = x.view(x.size(0), -1)
        if self.hidden is not None:
            return {"logits": self.fc(x), "aux": (self.hidden(x).tanh(), None)}
        return self.fc(x)


class Token(nn.Module):
    """A transformer over token numbers, or over patches of an image."""

    def __init__(
        self, blocks: Sequence[nn.Module], width: int, *, front: str, head: str, kind: str
    ) -> None:
        super().__init__()
        self.blocks, self.front, self.head = nn.ModuleList(blocks), front, head
        self.embed: nn.Module = nn.Embedding(VOCABULARY, width)
        if front == "patch":
            self.embed = nn.Conv2d(3, width, 2, stride=2)
        elif front == "linear":
            self.embed = nn.Linear(7, width)
        self.pos = nn.Parameter(torch.empty(1, POSITIONS, width))
        self.cls = nn.Parameter(torch.empty(1, 1, width)) if front == "patch" else None
        self.norm = norm(kind, width)
        self.fc = nn.Linear(width, VOCABULARY, bias=False)
        if head == "tied":
            self.fc.weight = self.embed.weight

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Any:
        x = self.embed(tokens)
        if self.cls is not None:
            x = x.flatten(2).transpose(1, 2)
            x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), dim=1)
        x = x + self.pos[:, : x.shape[1]]
        for block in self.blocks:
            x = block(x) if mask is None else block(x) * mask
        x = self.norm(x)
        if self.head == "first":
            return self.fc(x[:, 0])
        if self.head == "both":
            return self.fc(x), {"pooled": self.fc(x.mean(dim=1))}
        return {"logits": self.fc(x)}


class Series(nn.Module):
    """A recurrent network over steps in time."""

    def __init__(
        self, kind: str, wide: int, hidden: int, *, layers: int, both: bool, project: int, head: str
    ) -> None:
        super().__init__()
        self.front = nn.Conv1d(4, wide, 3, padding=1)
        self.norm = nn.BatchNorm1d(wide)
        more: dict[str, Any] = {"proj_size": project} if kind == "LSTM" and project else {}
        self.rnn = getattr(nn, kind)(
            wide, hidden, num_layers=layers, bidirectional=both, batch_first=True, **more
        )
        out = (more.get("proj_size") or hidden) * (2 if both else 1)
        self.head, self.hidden = head, nn.Linear(out, 6)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, steps: Tensor) -> Any:
        x = F.relu(self.norm(self.front(steps))).permute(0, 2, 1)
        out, state = self.rnn(x)
        if self.head == "last":
            x = out[:, -1]
        elif self.head == "mean":
            x = out.mean(1)
        else:
            h = state[0] if isinstance(state, tuple) else state
            x = torch.cat([h[-1], h[-2]], 1) if self.rnn.bidirectional else h[-1]
        return self.fc(F.relu(self.hidden(x)))
