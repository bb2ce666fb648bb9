"""What is done to one model: trace, plan, cut, prove; what a suite wants to know besides; a row."""

from __future__ import annotations

import importlib
import re
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from job import peak_mib
from torch import nn

import excise
from excise.axes import leaves
from excise.trace.output import output_leaves

KEEP_MACS = 0.5
MOST = 0.9
"""Where pins keep more than half of the MACs, up to this share is cut to, and the row says so."""
NOISE = 0.02
SUITES = ("torchvision", "timm", "transformers", "other", "micro")
VERIFIED = ("verified-exact", "verified-with-mixing")
OUTCOMES = (
    *VERIFIED, "shape-checked", "refused", "wrong", "exception", "timeout", "memory",
    "does not run uncut",
)  # fmt: skip


def suite(name: str) -> Any:
    """The module of a suite."""
    return importlib.import_module(f"suites.{name}")


def disturb(model: nn.Module) -> None:
    """Add noise to every parameter, and move the running statistics off their initial values.

    Else a zero-initialised head or layer scale would make the proof say nothing.
    """
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(NOISE * torch.randn(parameter.shape, generator=source))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn(buffer.shape, generator=source))
            elif name.endswith("running_var"):
                buffer.mul_(0.5 + torch.rand(buffer.shape, generator=source))


def attempt(name: str, model_name: str, tool: Callable[..., None] | None = None) -> dict[str, Any]:
    """Do to one model what a user would do, and say what came of it.

    Args:
        name: the suite.
        model_name: a model of it.
        tool: what to do; `cut` if nothing is given, Torch-Pruning's way in `peer`.
    """
    row: dict[str, Any] = {"suite": name, "model": model_name}
    try:
        model, args, kwargs = suite(name).build(model_name)
        disturb(model)
        getattr(suite(name), "ready", lambda *_: None)(model_name, model, args)
        state = torch.random.get_rng_state()
        with torch.no_grad():
            model(*args, **kwargs)
        torch.random.set_rng_state(state)
    except Exception as error:  # noqa: BLE001 - not ours: the model itself does not run here
        return row | {"outcome": "does not run uncut", "reason": told(error)}
    row["params"] = sum(p.numel() for p in model.parameters())
    row["rss_built_mib"] = peak_mib()
    try:
        (tool or cut)(row, model, args, kwargs)
    except excise.ExciseError as error:
        row |= {"outcome": "refused", "reason": told(error)}
    except Exception as error:  # noqa: BLE001 - any other exception is what this benchmark looks for
        row |= {
            "outcome": "exception",
            "reason": told(error),
            "traceback": without_paths(traceback.format_exc()[-4000:]),
        }
    return row


def without_paths(text: str) -> str:
    """A traceback that names files from their package or this repository on."""
    return re.sub(r'File "[^"]*/(?:site-packages|benchmarks|src|python3[^/"]*)/', 'File "', text)


def told(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


def cut(row: dict[str, Any], model: nn.Module, args: Any, kwargs: Any) -> None:
    """Trace, halve the MACs, cut and prove."""
    small, plan = halved(row, model, args, kwargs)
    start = perf_counter()
    verdict = excise.verify(model, small, plan, *args, **kwargs)
    row["verify_s"] = perf_counter() - start
    judge(row, verdict)
    if row["outcome"] in VERIFIED:
        row["loads"] = loads(row, small, plan, args, kwargs)
        getattr(suite(row["suite"]), "more", lambda *_: None)(row, model, small, kwargs)


def besides(row: dict[str, Any], model: nn.Module, args: Any, kwargs: Any) -> None:
    """What the suite wants to know of a cut model besides the proof, and that alone."""
    small, plan = halved({}, model, args, kwargs)
    row["loads"] = loads(row, small, plan, args, kwargs)
    getattr(suite(row["suite"]), "more", lambda *_: None)(row, model, small, kwargs)


def loads(row: dict[str, Any], small: nn.Module, plan: excise.Plan, args: Any, kwargs: Any) -> str:
    """Save the cut model, load it with the factory of the original, and compare what they say.

    A model that is another one once it has run (it caches tensors, or changes its own modules) was
    traced as that; then the factory runs it once as well, and the answer says so.
    """

    def fresh() -> nn.Module:
        made: nn.Module = suite(row["suite"]).build(row["model"])[0]
        return made

    def run_once() -> nn.Module:
        made = fresh()
        with torch.no_grad():
            made(*args, **kwargs)
        return made

    said = _loads(small, plan, args, kwargs, fresh)
    if said == "loads" or _loads(small, plan, args, kwargs, run_once) != "loads":
        return said
    return "loads into an original that has run"


def _loads(
    small: nn.Module, plan: excise.Plan, args: Any, kwargs: Any, build: Callable[[], nn.Module]
) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.safetensors"
        try:
            excise.save(small, plan, file)
            again = excise.load(file, build=build).eval()
            same = same_outputs(small, again, args, kwargs)
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            return f"fails: {told(error).replace(folder, '')}"
    return "loads" if same else "fails: another output"


def same_outputs(one: nn.Module, two: nn.Module, args: Any, kwargs: Any) -> bool:
    """Whether two models return the same tensors, random numbers drawn alike."""
    found = []
    for model in (one, two):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            found.append(output_leaves(model(*args, **kwargs)))
    pairs = zip(*found, strict=True)
    return all(
        torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True) for (_, a), (_, b) in pairs
    )


def _above(error: excise.errors.UnreachableTargetError) -> float:
    """What can be kept instead: the nearest size, or a little more than the smallest."""
    return error.nearest[0] if error.nearest else min(1.0, error.reachable + 0.01)


def halved(
    row: dict[str, Any], model: nn.Module, args: Any, kwargs: Any
) -> tuple[nn.Module, excise.Plan]:
    """Trace, halve the MACs and cut."""
    start = perf_counter()
    graph = excise.trace(model, *args, **kwargs)
    traced = perf_counter()
    row["trace_s"] = traced - start
    row["cuttable_share"] = graph.cuttable_share()
    row["groups"], row["pins"] = len(graph.groups), len(graph.pins)
    row["held"] = held(graph)
    row["macs"] = graph.macs()
    scores = excise.scores.magnitude(model, graph)
    try:
        plan = excise.plan(graph, scores, keep_macs=KEEP_MACS)
    except excise.errors.UnreachableTargetError as error:
        row["reachable"], row["why"] = error.reachable, list(error.reasons)
        if error.reachable > MOST:
            raise
        plan = excise.plan(graph, scores, keep_macs=_above(error))
    row["plan_s"] = perf_counter() - traced
    small = excise.remove(model, plan)
    row["kept_params"] = sum(p.numel() for p in small.parameters())
    kept = {graph.axes[name]: len(plan.kept(name).nonzero()[0]) for name in plan.removed}
    row["kept_macs"] = graph.macs(kept) / (row["macs"] or 1)
    row["rss_cut_mib"] = peak_mib()
    return small, plan


def judge(row: dict[str, Any], verdict: excise.Verdict) -> None:
    """Write a verdict into a row; what runs with the right shapes but is not proved says so."""
    row["worst"] = verdict.worst
    row["mixing"] = Counter(name.partition(" ")[0] for name in verdict.mixing)
    if verdict.passed:
        mixed = verdict.kind == "exact-with-mixing"
        row["outcome"] = "verified-with-mixing" if mixed else "verified-exact"
    else:
        row["outcome"] = "shape-checked" if verdict.kind == "unproved" else "wrong"
        row["reason"] = str(verdict).splitlines()[0]


def held(graph: excise.AxisGraph) -> dict[str, int]:
    """Reason -> parameters on no axis that may be cut, by the pin of their longest axis."""
    out: Counter[str] = Counter()
    for ref in set(graph.trace.names.values()):
        info = graph.scope.info(ref)
        if info.role != "parameter":
            continue
        found = [leaf for term in graph.scope.get(ref) for leaf in leaves(term)]
        if any(leaf.pin is None for leaf in found):
            continue
        count = 1
        for length in info.shape:
            count *= length
        longest = max(found, key=lambda leaf: leaf.size, default=None)
        out[longest.pin.reason if longest and longest.pin else "a single number"] += count
    return dict(out.most_common(6))
