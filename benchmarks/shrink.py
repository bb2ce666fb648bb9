"""Exact removal of dead filters: excise beside Torch-Pruning, torch-simplify and torch.ao.pruning.

Half of the filters of every convolution are masked (`prune.ln_structured`, by L1 norm), in the ViT
the values of half the heads. Batch norms have random weights, biases and statistics, as trained
ones do. Each tool gets the same masked model and has to return one with the same outputs. The
table says how many parameters are left, the worst relative output difference on random, large and
zero inputs, and the seconds (for excise beyond its trace, comparison included).

    python benchmarks/shrink.py                  # a minute; results/shrink.json
    python benchmarks/shrink.py --only resnet18

torch-simplify is no dependency: `pip install --no-deps --target DIR torch-simplify`, then put DIR
on PYTHONPATH. Without it, its column says so.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import vision
from torch import Tensor, nn
from torch.nn.utils import prune

import excise
from excise.exact import exact, plain

RESULT = Path(__file__).parent / "results" / "shrink.json"
_SHOWN = 90


def randomise(model: nn.Module) -> None:
    """Give batch norms the statistics, weights and biases of a trained network's order."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)


def mask_filters(model: nn.Module) -> None:
    """Mask half of the filters of every ungrouped convolution."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            prune.ln_structured(module, "weight", 0.5, n=1, dim=0)


def padded() -> nn.Module:
    """Biased, padded convolutions without a norm."""
    widths = [3, 64, 64, 128, 128]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def torchvision_model(name: str) -> Callable[[], nn.Module]:
    """A torchvision model with masked filters."""

    def build() -> nn.Module:
        made: nn.Module = importlib.import_module("torchvision.models").get_model(name)
        randomise(made)
        mask_filters(made)
        return made

    return build


def padded_masked() -> nn.Module:
    """`padded`, masked."""
    model = padded()
    mask_filters(model)
    return model


def vit() -> nn.Module:
    """A ViT, half of whose heads have no values."""
    model: nn.Module = importlib.import_module("timm").create_model("vit_tiny_patch16_224")
    for block in model.blocks:  # type: ignore[union-attr]
        for name in ("weight", "bias"):
            mask = torch.ones_like(getattr(block.attn.qkv, name)).unflatten(
                0, (3, block.attn.num_heads, -1)
            )
            mask[2, 1::2] = 0
            prune.custom_from_mask(block.attn.qkv, name, mask.flatten(0, 2))
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": torchvision_model("resnet18"),
    "resnet50": torchvision_model("resnet50"),
    "vgg16_bn": torchvision_model("vgg16_bn"),
    "mobilenet_v2": torchvision_model("mobilenet_v2"),
    "densenet121": torchvision_model("densenet121"),
    "vit_tiny, half the heads": vit,
    "biased padded convolutions": padded_masked,
}


def permanent(model: nn.Module) -> nn.Module:
    """A copy with its masks multiplied in, which is what the other tools take."""
    return plain(model).eval()


def dead(model: nn.Module) -> dict[str, list[int]]:
    """Layer -> filters that hold nothing but zeros."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            zero = (module.weight.detach() == 0).flatten(1).all(1)
            if bool(zero.any()):
                found[name] = zero.nonzero().flatten().tolist()
    return found


def by_excise(model: nn.Module, x: Tensor) -> nn.Module:
    """`excise.shrink`."""
    return excise.shrink(model, x, latency=False).model


def by_torch_pruning(model: nn.Module, x: Tensor) -> nn.Module:
    """Torch-Pruning, told to remove the filters that are dead in every coupled convolution."""
    tp: Any = importlib.import_module("torch_pruning")
    small = permanent(model)
    for p in small.parameters():
        p.requires_grad = True
    graph = tp.DependencyGraph().build_dependency(small, example_inputs=x)
    modules = dict(small.named_modules())
    for name in dead(small):
        layer = modules[name]
        conv = isinstance(layer, nn.Conv2d)
        how = tp.prune_conv_out_channels if conv else tp.prune_linear_out_channels
        width = layer.get_parameter("weight").shape[0]
        gone = set(range(width))
        for dependency, filters in graph.get_pruning_group(layer, how, idxs=list(gone)):
            other = dependency.target.module
            if graph.is_out_channel_pruning_fn(dependency.handler) and len(filters) == width:
                gone &= _dead(other) if isinstance(other, (nn.Conv2d, nn.Linear)) else gone
        if gone and len(gone) < width:
            group = graph.get_pruning_group(layer, how, idxs=sorted(gone))
            if graph.check_pruning_group(group):
                group.prune()
    return small


def _dead(layer: nn.Module) -> set[int]:
    zero = (layer.get_parameter("weight").detach() == 0).flatten(1).all(1)
    return set(zero.nonzero().flatten().tolist())


def by_simplify(model: nn.Module, x: Tensor) -> nn.Module:
    """torch-simplify."""
    tool: Any = importlib.import_module("simplify")
    small: nn.Module = tool.simplify(permanent(model), x[:1])
    return small


def by_ao(model: nn.Module, x: Tensor) -> nn.Module:
    """torch.ao.pruning's structured pruner, with the given masks, on the layers that it knows.

    It cuts a layer only if it is followed by what one of its patterns lists (no norm, no sum, no
    dropout), and raises if asked for any other. So it is asked for those that match; where none
    does, for all, so that it says so itself. Biases are kept (`prune_bias=False`), which is what
    the masked model computes.
    """
    del x
    base: Any = importlib.import_module("torch.ao.pruning._experimental.pruner")
    small = permanent(model)
    gone = dead(small)
    known = _matched(small)
    chosen = {name: filters for name, filters in gone.items() if name in known} or gone
    layers = dict(small.named_modules())
    pruner = base.SaliencyPruner({})
    pruner.prepare(small, [{"tensor_fqn": f"{n}.weight", "prune_bias": False} for n in chosen])
    for name, filters in chosen.items():
        layers[name].parametrizations.weight[0].mask[filters] = False
    out: nn.Module = pruner.prune()
    return out


def _matched(model: nn.Module) -> set[str]:
    """Layers that one of the pruner's patterns begins with."""
    place = "torch.ao.pruning._experimental.pruner"
    match: Any = importlib.import_module(f"{place}.match_utils").apply_match
    base: Any = importlib.import_module(f"{place}.base_structured_sparsifier")
    patterns = base._get_default_structured_pruning_patterns()  # noqa: SLF001 - its own list
    traced = torch.fx.symbolic_trace(model)
    modules = dict(traced.named_modules())
    return {
        str(node.target)
        for node in traced.graph.nodes
        if any(match(modules, pattern, node, []) is not None for pattern in patterns)
    }


TOOLS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "excise": by_excise,
    "Torch-Pruning": by_torch_pruning,
    "torch-simplify": by_simplify,
    "torch.ao.pruning": by_ao,
}


def difference(wanted: nn.Module, found: nn.Module, size: int) -> float:
    """Worst relative output difference on random, large and zero inputs."""
    torch.manual_seed(1)
    noise = torch.randn(2, 3, size, size)
    worst = 0.0
    with torch.no_grad():
        for x in (noise, 1e3 * noise, torch.zeros_like(noise)):
            a, b = wanted(x), found(x)
            gap = float((a - b).abs().max() / a.abs().max())
            worst = max(worst, gap if gap == gap else float("inf"))  # noqa: PLR0124 - NaN
    return worst


def attempt(tool: str, model: nn.Module, x: Tensor) -> dict[str, Any]:
    """One cell of the table: numbers, or why there are none."""
    given = copy.deepcopy(model) if tool != "excise" else model
    before = _clock()
    if tool == "excise":
        excise.trace(plain(model), x)
    start = _clock()
    trace = [b - a if tool == "excise" else 0.0 for a, b in zip(before, start, strict=True)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small = TOOLS[tool](given, x).eval()
            end = _clock()
            out: dict[str, Any] = {
                "params": sum(p.numel() for p in small.parameters()),
                "worst_relative_difference": difference(model, small, x.shape[-1]),
                "seconds": end[0] - start[0] - trace[0],
                "cpu_seconds": end[1] - start[1] - trace[1],
            }
            other = x.shape[-1] + 32
            out["other_resolution"] = _other(model, small, other)
    except ModuleNotFoundError as error:
        return {"missing": str(error)}
    except Exception as error:  # noqa: BLE001 - what a tool cannot do is a result
        text = " ".join(str(error).split())
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ... {text[-_SHOWN:]}"
        return {"failed": f"{type(error).__name__}: {shown}"}
    return out


def _clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _other(model: nn.Module, small: nn.Module, size: int) -> float | str:
    try:
        return difference(model, small, size)
    except Exception as error:  # noqa: BLE001 - a model, or a tool's result, of one resolution
        return type(error).__name__


def most(model: nn.Module, x: Tensor) -> int:
    """Parameters left if not even carriers and last units had to stay."""
    found = exact(plain(model), (x,), {})
    kept = {}
    for axis, gone in found.live.gone.items():
        extra = sum(
            found.live.reasons[axis.name, unit].kind in {"carrier", "border"}
            for unit in (~gone).nonzero().flatten().tolist()
            if (axis.name, unit) in found.live.reasons
        )
        kept[axis] = axis.size - int(gone.sum()) - extra
    return found.graph.params(kept)


def run(name: str) -> dict[str, Any]:
    """One row of the table."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    size = 64 if name.startswith("biased") else 224
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        model(x)
    whole = sum(p.numel() for p in model.parameters())
    row: dict[str, Any] = {
        "model": name,
        "threads": torch.get_num_threads(),
        "params": whole,
        "least_params": most(model, x),
    }
    for tool in TOOLS:
        row[tool] = attempt(tool, model, x)
    return row


def say(cell: dict[str, Any]) -> str:
    """A cell for people."""
    if "params" not in cell:
        return ", ".join(f"{what}: {why}" for what, why in cell.items())
    other = cell["other_resolution"]
    there = f"{other:.0e}" if isinstance(other, float) else other
    return (
        f"{cell['params'] / 1e6:.3f} M params, difference {cell['worst_relative_difference']:.0e} "
        f"(other resolution {there}), {cell['seconds']:.2f} s "
        f"({cell['cpu_seconds']:.2f} s of CPU)"
    )


def keep(row: dict[str, Any]) -> None:
    """Write a row beside those of other models; an older one of its own is replaced."""
    rows = json.loads(RESULT.read_text("utf-8"))["rows"] if RESULT.exists() else []
    rows = [r for r in rows if r["model"] != row["model"]] + [row]
    rows.sort(key=lambda r: list(MODELS).index(r["model"]))
    head = {"torch": torch.__version__, "cores": os.cpu_count()}
    RESULT.write_text(json.dumps({**head, "rows": rows}, indent=2) + "\n", "utf-8")


def main() -> None:
    """Run the table, print it, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append")
    chosen = parser.parse_args().only or list(MODELS)
    vision.prepare()
    for name in chosen:
        row = run(name)
        print(
            f"{name}: {row['params']:,} parameters, at least {row['least_params']:,} have to stay"
        )
        for tool in TOOLS:
            print(f"  {tool:18} {say(row[tool])}", flush=True)
        keep(row)


if __name__ == "__main__":
    main()
