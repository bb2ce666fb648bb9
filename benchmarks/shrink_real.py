"""Real trained networks with masked filters: shrunk, and asked for every prediction again.

Filters (rows of convolutions and linear layers, but not of the last layer) are masked by L1 norm, a
share per layer with `prune.ln_structured` or one threshold for all, and the masks made permanent.
Nothing is trained again, so the masked network is as bad as its masks; the shrunk one has to be
exactly as bad, sample by sample.

    python benchmarks/shrink_real.py                        # 15 minutes; results/shrink_real.json
    python benchmarks/shrink_real.py --only resnet20 --full # every sample of the test set

The folder of networks is the one that `EXCISE_DATA` names, or `../shared/data` beside this one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils._pytree import tree_flatten

import excise

RESULT = Path(__file__).parent / "results" / "shrink_real.json"
LIMITS = {
    "resnet20": 2000, "resnet56": 1000, "vit": 1000, "efficientnet_lite0": 60,
    "stories260k": 30, "dncnn": 2,
}  # fmt: skip
SHARES = (0.3, 0.5, 0.7)


def layers(model: nn.Module, graph: excise.AxisGraph) -> dict[str, nn.Module]:
    """Convolutions and linear layers whose filters are no model outputs."""
    pinned = {str(slot) for pin in graph.pins for slot in pin.slots if "output" in pin.reason}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
        and getattr(module, "groups", 1) == 1
        and f"{name}.weight[0]" not in pinned
    }


def mask_layers(model: nn.Module, graph: excise.AxisGraph, share: float) -> None:
    """The same share of every layer."""
    for module in layers(model, graph).values():
        prune.ln_structured(module, "weight", share, n=1, dim=0)


def mask_globally(model: nn.Module, graph: excise.AxisGraph, share: float) -> None:
    """One threshold on the mean absolute weight of a filter; each layer keeps at least one."""
    found = layers(model, graph)
    norms = {
        n: m.get_parameter("weight").detach().abs().flatten(1).mean(1) for n, m in found.items()
    }
    threshold = torch.cat(list(norms.values())).quantile(share)
    for name, module in found.items():
        keep = norms[name] > threshold
        keep[norms[name].argmax()] = True
        weight = module.get_parameter("weight")
        rows = keep.reshape(-1, *([1] * (weight.ndim - 1))).expand_as(weight)
        prune.custom_from_mask(module, "weight", rows.to(weight.dtype))


MASKS = {"per layer": mask_layers, "global": mask_globally}


class Listener:
    """Keeps what a model returns: its decisions, and its numbers."""

    def __init__(self, model: nn.Module) -> None:
        self.decisions: list[Tensor] = []
        self.numbers: list[Tensor] = []
        self.handle = model.register_forward_hook(self.hear)

    def hear(self, _module: nn.Module, _args: Any, out: Any) -> None:
        """Keep one batch."""
        for tensor in tree_flatten(getattr(out, "logits", out))[0]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.decisions.append(tensor.argmax(-1).cpu())
                self.numbers.append(tensor.detach().cpu())


def heard(model: nn.Module, evaluate: Any, limit: int | None) -> tuple[float, Listener]:
    """The metric of a model, and everything it said."""
    listener = Listener(model)
    try:
        return float(evaluate(model, limit)), listener
    finally:
        listener.handle.remove()


def compare(before: Listener, after: Listener) -> dict[str, Any]:
    """How many decisions differ, of how many; and the largest relative difference."""
    pairs = list(zip(before.decisions, after.decisions, strict=True))
    values = list(zip(before.numbers, after.numbers, strict=True))
    return {
        "decisions": sum(a.numel() for a, _ in pairs),
        "different": sum(int((a != b).sum()) for a, b in pairs),
        "worst_relative_difference": max(
            float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)) for a, b in values
        ),
    }


def run(zoo: Any, name: str, how: str, share: float, *, full: bool) -> dict[str, Any]:
    """Mask one network in one way, shrink it, and compare."""
    item = zoo.load(name)
    graph = excise.trace(item.model, *item.example)
    MASKS[how](item.model, graph, share)
    for module in layers(item.model, graph).values():
        prune.remove(module, "weight")  # so that "before" is the network without its masks
    limit = None if full else LIMITS.get(name)
    small, report = excise.shrink(item.model, *item.example)
    wanted, before = heard(item.model, item.evaluate, limit)
    found, after = heard(small, item.evaluate, limit)
    return {
        "network": name,
        "masked": how,
        "share": share,
        "every_sample": full,
        "metric": item.metric,
        "before": wanted,
        "after": found,
        **compare(before, after),
        "removed_params": report.diagnosis.removed_params,
        "carriers": report.diagnosis.carriers,
        "kept": report.bought.kept(),
        "rows": {r.name: [r.before, r.after] for r in report.bought.rows},
    }


def keep(row: dict[str, Any]) -> None:
    """Write a row beside those of other networks and masks; an older one of its own is replaced."""
    key = ("network", "masked", "share")
    rows = json.loads(RESULT.read_text("utf-8"))["rows"] if RESULT.exists() else []
    rows = [r for r in rows if any(r[k] != row[k] for k in key)] + [row]
    rows.sort(key=lambda r: [list(LIMITS).index(r["network"]), r["masked"], r["share"]])
    head = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    RESULT.write_text(json.dumps({**head, "rows": rows}, indent=2) + "\n", "utf-8")


def main() -> None:
    """Run everything that is there, print it, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(LIMITS))
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EXCISE_DATA", beside))
    if not folder.is_dir():
        print("no networks: set EXCISE_DATA to their folder")
        return
    sys.path.insert(0, str(folder))
    zoo = importlib.import_module("zoo")
    for name in given.only:
        for how in MASKS:
            for share in SHARES:
                row = run(zoo, name, how, share, full=given.full)
                keep(row)
                kept = ", ".join(f"{k} {100 * v:.0f} %" for k, v in row["kept"].items())
                print(
                    f"{name} {100 * share:.0f} % {how}: {row['different']} of {row['decisions']} "
                    f"decisions differ, worst {row['worst_relative_difference']:.0e}; "
                    f"{row['metric']} {row['before']:.2f} -> {row['after']:.2f}; left: {kept}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
