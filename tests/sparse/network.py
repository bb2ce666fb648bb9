"""Small networks of every kind that the engine plans for, with scattered zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def zeroed(model: nn.Module, zeros: float = 0.8) -> nn.Module:
    """The model in eval mode, most weights zero, and batch norms that do something."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -1, 1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            with torch.no_grad():
                parameter.mul_(torch.rand_like(parameter) >= zeros)
    return model.eval()


class Block(nn.Module):
    """A residual block; `late` adds after the activation."""

    def __init__(self, width: int, out: int, stride: int, *, late: bool = False) -> None:
        super().__init__()
        self.one, self.bn1 = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.two, self.bn2 = nn.Conv2d(out, out, 1), nn.BatchNorm2d(out)
        self.skip = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.late = late

    def forward(self, x: Tensor) -> Tensor:
        """Images to images."""
        y = self.bn2(self.two(functional.relu(self.bn1(self.one(x)))))
        if self.late:
            late: Tensor = functional.silu(y) + self.skip(x)
            return late
        y += self.skip(x)
        out: Tensor = functional.relu(y)
        return out


class Residual(nn.Module):
    """A ResNet in small: stem, pool, blocks, mean, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 24, 7, 2, 3, bias=False), nn.BatchNorm2d(24)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(Block(24, 32, 1), Block(32, 40, 2, late=True))
        self.head = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images to classes."""
        x = self.blocks(self.pool(functional.relu(self.bn(self.stem(x)))))
        out: Tensor = self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
        return out


class Mobile(nn.Module):
    """Inverted residuals: depthwise convolutions, ReLU6, hardswish, dilation, a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.wide = nn.Sequential(nn.Conv2d(16, 48, 1), nn.BatchNorm2d(48), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(48, 48, 5, 1, 2, groups=48), nn.BatchNorm2d(48))
        self.slim = nn.Conv2d(48, 16, 1, bias=False)
        self.gate = nn.Conv2d(16, 16, 1)
        self.far = nn.Conv2d(16, 12, 3, padding=2, dilation=2)
        self.thin = nn.Conv2d(12, 12, 3, 2, 1, groups=12)

    def forward(self, x: Tensor) -> Tensor:
        """Images to features."""
        x = functional.hardswish(self.bn(self.stem(x)))
        x = x + self.slim(functional.hardtanh(self.deep(self.wide(x)), 0.0, 6.0))
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        out: Tensor = self.thin(functional.gelu(self.far(x))).flatten(1)
        return out


class Decoder(nn.Module):
    """A causal transformer, pre-norm, with a weight as GPT-2 keeps them, and two outputs."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.place = nn.Parameter(torch.randn(16, width))
        self.norm = nn.LayerNorm(width)
        self.joint = nn.Parameter(torch.randn(width, 3 * width) / 8)
        self.joint_bias = nn.Parameter(torch.randn(3 * width))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 96), nn.Linear(96, width, bias=False)
        self.head = nn.Linear(width, 50, bias=False)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Tokens to logits and the last hidden state."""
        n, length = tokens.shape
        x = self.embed(tokens) + self.place[:length]
        joint = torch.addmm(self.joint_bias, self.norm(x).view(-1, x.shape[-1]), self.joint)
        q, k, v = joint.view(n, length, 3, 4, -1).permute(2, 0, 3, 1, 4).unbind()
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, -1))
        x = x + self.down(functional.gelu(self.up(self.norm(x)), approximate="tanh"))
        return {"logits": self.head(x), "hidden": x}


def encoder() -> nn.Module:
    """Torch's own encoder."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Attending(nn.Module):
    """`nn.MultiheadAttention` as torchvision's ViT calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attend = nn.LayerNorm(32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Dropout(0.5), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        y = self.norm(x)
        y, _ = self.attend(y, y, y, need_weights=False)
        x = x + y
        out: Tensor = x + self.mlp(self.norm(x))
        return out


NETWORKS: dict[str, tuple[Any, Any]] = {
    "residual": (Residual, lambda n: torch.randn(n, 3, 64, 60)),
    "mobile": (Mobile, lambda n: torch.randn(n, 3, 40, 44)),
    "decoder": (Decoder, lambda n: torch.randint(0, 50, (n, 11))),
    "encoder": (encoder, lambda n: torch.randn(n, 9, 32)),
    "attending": (Attending, lambda n: torch.randn(n, 9, 32)),
}
"""Name -> what builds it, and what makes an input of so many examples."""
