"""What reading a model costs: time and memory of `excise.trace`, beside Torch-Pruning's graph.

Both libraries get the same model object, the same example input and one thread. Times are taken in
one process, in turn, after one call of each that is not counted; the first call of a fresh process,
which a user waits for, is reported on its own. Torch-Pruning runs the model and walks its autograd
graph (`DependencyGraph().build_dependency`, as its README says), so its time grows with the
input; `excise.trace` computes nothing.

Memory is what the resident set of a fresh process grows by, at its peak, over the process that
holds the model with its weights: `VmHWM` (reset before the call) less `VmRSS`. One process makes
its first trace, so that the code torch loads at first use counts; another has traced a tiny model
before.

    python benchmarks/tracing.py                       # everything, about five minutes
    python benchmarks/tracing.py --only swin_t --rounds 3
    python benchmarks/tracing.py --table               # the stored results again
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import importlib.metadata
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import vision
from torch import Tensor, nn

import excise

RESULTS = Path(__file__).parent / "results" / "tracing.json"
VISION = ("resnet50", "densenet201", "vit_b_16", "swin_t")
TRANSFORMERS = ("vit_b_16", "swin_t", "llama")
NAMES = (*VISION, "llama")
DEPTHS = (8, 16, 32, 64, 128)
TOKENS = 128
MIB = 2**20
Example = tuple[nn.Module, Tensor, dict[str, Any]]


def llama(layers: int, width: int, hidden: int, heads: int, vocabulary: int = 32_000) -> nn.Module:
    """A LLaMA with random weights, and without a cache, which neither library needs."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - only where needed

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        use_cache=False,
    )
    model: nn.Module = LlamaForCausalLM(config).eval()
    return model


def build(name: str) -> Example:
    """A model in eval mode, and the input that both libraries get."""
    torch.manual_seed(0)
    if name == "llama":
        return llama(32, 1024, 2816, 16), torch.randint(0, 32_000, (1, TOKENS)), {}
    import torchvision  # noqa: PLC0415 - after vision.prepare()

    model = torchvision.models.get_model(name, weights=None).eval()
    return model, torch.randn(1, 3, 224, 224), {}


def ours(example: Example) -> None:
    """Read the model with excise."""
    model, x, named = example
    excise.trace(model, x, **named)


def theirs(example: Example) -> None:
    """Read the model with Torch-Pruning."""
    import torch_pruning  # noqa: PLC0415 - so that it weighs nothing where only excise is measured

    model, x, _ = example
    loss = (lambda out: out.logits.sum()) if hasattr(model, "config") else None
    torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x, output_transform=loss)


TOOLS: dict[str, Callable[[Example], None]] = {"excise": ours, "torch_pruning": theirs}


def seconds(call: Callable[[Example], None], example: Example) -> float:
    """Wall-clock seconds of one call; the garbage of earlier ones is not its business."""
    gc.collect()
    start = time.perf_counter()
    call(example)
    return time.perf_counter() - start


def in_turn(name: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each tool, call by call in turn."""
    example = build(name)
    for call in TOOLS.values():
        call(example)
    return {
        tool: times
        for tool, *times in zip(
            TOOLS,
            *([seconds(call, example) for call in TOOLS.values()] for _ in range(rounds)),
            strict=True,
        )
    }


def status(field: str) -> int:
    """A memory figure of this process in bytes, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def growth(name: str, tool: str, *, loaded: bool) -> dict[str, float]:
    """Peak growth of the resident set in bytes, and seconds, of the first call for a model."""
    example = build(name)
    call = TOOLS[tool]
    if loaded:
        call((nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), torch.randn(1, 3, 8, 8), {}))
    elif tool == "torch_pruning":
        importlib.import_module("torch_pruning")  # excise is imported already
    tensors = [*example[0].parameters(), *example[0].buffers()]
    size = sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here
    took = seconds(call, example)
    return {"model_bytes": size, "growth_bytes": status("VmHWM") - before, "seconds": took}


def depth(layers: int, rounds: int) -> dict[str, float]:
    """Seconds to read a narrow LLaMA of that depth: only the number of operations matters."""
    model = llama(layers, 64, 172, 4, vocabulary=256)
    example: Example = model, torch.randint(0, 256, (1, TOKENS)), {}
    ours(example)
    times = [seconds(ours, example) for _ in range(rounds)]
    graph = excise.trace(*example[:2])
    return {"layers": layers, "ops": len(graph.trace.ops), "seconds": statistics.median(times)}


def huge() -> dict[str, float]:
    """A 32-layer LLaMA of 7B parameters on the meta device: its weights exist nowhere."""
    with torch.device("meta"):
        model = llama(32, 4096, 11_008, 32)
        x = torch.zeros(1, TOKENS, dtype=torch.int64)
    before = status("VmRSS")
    took = seconds(ours, (model, x, {}))
    count = sum(p.numel() for p in model.parameters())
    return {"params": count, "seconds": took, "growth_bytes": status("VmHWM") - before}


def worker(task: str, *given: str) -> Any:
    """One measurement, in a process of its own."""
    if task == "time":
        return in_turn(given[0], int(given[1]))
    if task == "depth":
        return depth(int(given[0]), int(given[1]))
    return huge() if task == "huge" else growth(given[0], given[1], loaded=given[2] == "loaded")


def ask(*task: object) -> Any:
    """What a worker says; its message if it fails."""
    command = [sys.executable, __file__, "--worker", *map(str, task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Everything about one model."""
    row: dict[str, Any] = {"seconds": ask("time", name, rounds)}
    for tool in TOOLS:
        row[tool] = {how: ask("memory", name, tool, how) for how in ("first", "loaded")}
    return row


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    head = ["model", "excise", "Torch-Pruning", "times faster (spread)", "first calls"]
    head += ["memory, first call", "memory, once loaded", "Torch-Pruning's, once loaded"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [row(name, found["models"][name]) for name in NAMES if name in found["models"]]
    if "depth" in found:
        lines += [
            "",
            "| LLaMA layers | operations | seconds | ms per operation |",
            "|---" * 4 + "|",
        ]
        for one in found["depth"]:
            each = 1e3 * one["seconds"] / one["ops"]
            lines.append(f"| {one['layers']} | {one['ops']} | {one['seconds']:.3f} | {each:.3f} |")
    if "huge" in found:
        big = found["huge"]
        what = f"32-layer LLaMA, {big['params'] / 1e9:.2f} G parameters on the meta device"
        cost = f"{big['seconds']:.2f} s, {big['growth_bytes'] / MIB:.0f} MiB"
        lines += ["", f"{what}, first call: {cost}."]
    return "\n".join(lines)


def row(name: str, found: dict[str, Any]) -> str:
    """One model as a line of the table."""
    times = found["seconds"]
    if "failed" in times:
        return f"| {name} | failed: {times['failed']} |"
    ratios = [b / a for a, b in zip(times["excise"], times["torch_pruning"], strict=True)]
    here, there = found["excise"], found["torch_pruning"]
    grown = [_grown(one) for one in (here["first"], here["loaded"], there["loaded"])]
    return (
        f"| {name} | {_span(times['excise'])} | {_span(times['torch_pruning'])} "
        f"| {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) "
        f"| {here['first']['seconds']:.2f} s, {there['first']['seconds']:.2f} s "
        f"| {' | '.join(grown)} |"
    )


def _span(times: list[float]) -> str:
    middle, low, high = (1e3 * t for t in (statistics.median(times), min(times), max(times)))
    return f"{middle:.0f} ms ({low:.0f} to {high:.0f})"


def _grown(found: dict[str, float]) -> str:
    size, more = found["model_bytes"], found["growth_bytes"]
    return f"{more / MIB:.0f} MiB ({1 + more / size:.2f}x)"


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=9, help="counted calls of each library")
    parser.add_argument("--table", action="store_true", help="print what is stored")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        vision.prepare()  # transformers imports torchvision too
        print(json.dumps(worker(*given.worker)))
        return
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"models": {}}
    if not given.table:
        found |= {
            "date": dt.datetime.now(tz=dt.timezone.utc).date().isoformat(),
            "threads": 1,
            "rounds": given.rounds,
            "tokens": TOKENS,
            "versions": {
                package: importlib.metadata.version(package)
                for package in ("torch", "torchvision", "transformers", "torch-pruning")
            },
        }
        for name in given.only:
            found["models"][name] = measure(name, given.rounds)
            print(row(name, found["models"][name]), flush=True)
        if given.only == NAMES:
            found["depth"] = [ask("depth", layers, 3) for layers in DEPTHS]
            found["huge"] = ask("huge")
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
