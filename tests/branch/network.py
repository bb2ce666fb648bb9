"""Small networks with residual branches of every form that matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from excise import Plan, trace
from excise.branch import branches
from excise.plan import BranchCut


class Block(nn.Module):
    """As in a ResNet: the sum goes through the ReLU that the stream has been through before."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, hidden, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        out = nn.functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += x
        return nn.functional.relu(out, inplace=True)


class Residual(nn.Module):
    """A stem, blocks and a classifier."""

    def __init__(self, blocks: int = 4, width: int = 8, hidden: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width, hidden) for _ in range(blocks)))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        out: Tensor = self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))
        return out


class Attention(nn.Module):
    """Two heads; returns its weights beside its output, as many do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = 2
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, *, hidden: Tensor, told: bool = False) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        batch, length, _ = hidden.shape
        q, k, v = (
            t.view(batch, length, self.heads, -1).transpose(1, 2)
            for t in self.qkv(hidden).chunk(3, -1)
        )
        weights = (q @ k.mT / 2).softmax(-1)
        out = self.proj((weights @ v).transpose(1, 2).reshape(batch, length, -1))
        return out, weights if told else None


class Layer(nn.Module):
    """Pre-norm: attention, then two linear layers that lie in the layer itself, scaled."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor, *, told: bool = False) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        more, weights = self.attn(hidden=self.norm1(x), told=told)
        x = x + more
        return x + self.scale * self.down(self.up(self.norm2(x)).relu()), weights


class Transformer(nn.Module):
    """Layers over vectors; `told` says whether the first layer's weights are returned, too."""

    def __init__(self, layers: int = 3, width: int = 8, *, told: bool = False) -> None:
        super().__init__()
        self.told = told
        self.stem = nn.Linear(4, width)
        self.layers = nn.ModuleList(Layer(width, 12) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Any:  # noqa: D102 - the class says it
        x, seen = self.stem(x), None
        for number, layer in enumerate(self.layers):
            x, weights = layer(x, told=self.told and number == 0)
            seen = weights if seen is None else seen
        out = self.head(self.norm(x).mean(1))
        return (out, seen) if self.told else out


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Random weights and statistics of batch norms, in eval mode."""
    torch.manual_seed(0)
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


IMAGE, ROWS = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4)


def cut_of(model: nn.Module, *inputs: Any, names: tuple[str, ...] | None = None) -> Plan:
    """A plan that removes branches and no unit: those of these names, or all."""
    graph = trace(model, *inputs)
    found = [b for b in branches(graph).found if names is None or b.name in names]
    shapes = {n: tuple(graph.scope.shape(r)) for n, r in graph.trace.names.items()}
    cuts = tuple(BranchCut(b.name, b.modules) for b in found)
    return Plan({}, {}, (), shapes=shapes, branches=cuts)
