"""Whole networks for `engines.py`: from their configurations, pruned by magnitude, left as files.

python benchmarks/engine_nets.py resnet50 0.8 1 FOLDER    # weights, example, output, ONNX
"""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

OPSET = 14
"""The newest that DeepSparse reads."""
TOKENS = 128
_IMAGES, _BATCHES = 8, 3  # for the statistics of batch norms


class Net(NamedTuple):
    """How a network and an example are made; whether it is a convolutional one."""

    build: Callable[[], nn.Module]
    example: Callable[[int], Tensor]
    images: bool


class Hidden(nn.Module):
    """A transformer that gives its last hidden state, and nothing else."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, length) to (n, length, width)."""
        out: Tensor = self.inner(input_ids=tokens)[0]
        return out


def _timm(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        importlib.import_module("vision").prepare()
        made: nn.Module = importlib.import_module("timm").create_model(name)
        return made

    return build


def _bert() -> nn.Module:
    importlib.import_module("vision").prepare()
    it: Any = importlib.import_module("transformers")
    config = it.BertConfig(attn_implementation="sdpa")
    return Hidden(it.BertModel(config, add_pooling_layer=False))


def _image(n: int) -> Tensor:
    return torch.randn(n, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def _tokens(n: int) -> Tensor:
    return torch.randint(0, 30000, (n, TOKENS), generator=torch.Generator().manual_seed(1))


NETS = {
    "resnet50": Net(_timm("resnet50"), _image, images=True),
    "mobilenetv1": Net(_timm("mobilenetv1_100"), _image, images=True),
    "mobilenetv2": Net(_timm("mobilenetv2_100"), _image, images=True),
    "bert": Net(_bert, _tokens, images=False),
    "vit": Net(_timm("vit_base_patch16_224"), _image, images=False),
}


def built(name: str) -> nn.Module:
    """The network with random weights, in eval mode; no norm or bias is zero, as some begin."""
    torch.manual_seed(0)
    model = NETS[name].build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            nn.init.normal_(bias, std=0.02)
    return model


@torch.no_grad()
def prune(model: nn.Module, zeros: float) -> None:
    """The smallest weights of every layer set to zero, the same share of each.

    The first convolution and depthwise ones stay dense, as do biases, norms and embeddings.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    for layer in model.modules():
        if isinstance(layer, nn.Linear) or (
            isinstance(layer, nn.Conv2d) and layer is not first and layer.groups == 1
        ):
            size = layer.weight.abs().flatten()
            count = math.floor(zeros * len(size))
            if count:
                layer.weight.mul_(layer.weight.abs() > size.kthvalue(count).values)


@torch.no_grad()
def settle(model: nn.Module, example: Callable[[int], Tensor]) -> None:
    """Running statistics of batch norms anew: pruned weights give other numbers."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None
    for _ in range(_BATCHES if norms else 0):
        model(example(_IMAGES) + torch.randn(1))
    for norm in norms:
        norm.eval().momentum = 0.1


def load(name: str, folder: Path) -> tuple[nn.Module, Tensor]:
    """The pruned network that was left in a folder, and its example."""
    model = built(name)
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return model, torch.from_numpy(np.load(folder / "example.npy"))


def leave(name: str, zeros: float, batch: int, folder: Path) -> None:
    """Write weights, example, eager's output, and the network as ONNX if that can be written."""
    model, net = built(name), NETS[name]
    prune(model, zeros)
    settle(model, net.example)
    x = net.example(batch)
    torch.save(model.state_dict(), folder / "weights.pt")
    np.save(folder / "example.npy", x.numpy())
    with torch.no_grad():
        np.save(folder / "output.npy", model(x).numpy())
    if hasattr(model, "inner"):  # the masks of the fused form are not in the exporter's language
        inner: Any = model.inner
        inner.set_attn_implementation("eager")
    if name == "vit":
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                vars(module)["fused_attn"] = False
    warnings.simplefilter("ignore")
    torch.onnx.export(
        model, (x,), str(folder / "model.onnx"), opset_version=OPSET, dynamo=False,
        input_names=["x"], output_names=["y"],
    )  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 5:  # noqa: PLR2004 - where the exporter finds `onnx`, which torch does not bring
        sys.path.append(sys.argv[5])
    leave(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
