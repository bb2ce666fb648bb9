"""Zero-effort coverage: trace, halve the MACs, cut and prove other people's networks, untouched.

Every classification model of torchvision, and the smallest model of every timm source file (see
`families.py`). Each runs in a process of its own under a time and a memory limit, with random
weights. Every parameter gets noise on top, so that none is all zero: a zero-initialised head or
layer scale would make the proof say nothing. No line here knows a model: the input size is the
first of 224, 299, 256, ... that runs (torchvision), or the one in the model's own configuration
(timm).

    python benchmarks/zoo.py                                  # both suites, about an hour on 2 cores
    python benchmarks/zoo.py --suite timm --only vision_transformer --jobs 1
    python benchmarks/zoo.py --table                          # the table of the last run again
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import families
import torch
import vision
from torch import Tensor, nn

import excise

RESULTS = Path(__file__).parent / "results" / "zoo.jsonl"
SUITES = ("torchvision", "timm")
SIZES = (224, 299, 256, 384, 512)
VERIFIED = ("verified-exact", "verified-with-mixing")
OUTCOMES = (*VERIFIED, "wrong", "unproved", "refused", "exception", "timeout", "memory")
KEEP_MACS = 0.5
NOISE = 0.02
MIB = 2**20


def family(name: str) -> str:
    """The source file of a timm model."""
    rows = json.loads(families.DATA.read_text())["families"]
    return next(str(f["family"]) for f in rows if f["model"] == name)


def names(suite: str) -> list[str]:
    """The models of a suite."""
    if suite == "timm":
        return [f["model"] for f in json.loads(families.DATA.read_text())["families"]]
    vision.prepare()
    import torchvision  # noqa: PLC0415 - after vision.prepare()

    return list(torchvision.models.list_models(module=torchvision.models))


def build(suite: str, name: str) -> tuple[nn.Module, Tensor]:
    """A model with random weights in eval mode, and an input that it accepts."""
    vision.prepare()
    torch.manual_seed(0)
    if suite == "timm":
        import timm  # noqa: PLC0415

        model = timm.create_model(name, pretrained=False).eval()
        return model, torch.randn(1, *model.default_cfg["input_size"])
    import torchvision  # noqa: PLC0415

    model = torchvision.models.get_model(name, weights=None).eval()
    for size in SIZES:
        x = torch.randn(1, 3, size, size)
        try:
            with torch.no_grad():
                model(x)
        except (RuntimeError, AssertionError, ValueError):
            continue
        return model, x
    raise ValueError(f"{name} runs at none of {SIZES}")


def disturb(model: nn.Module) -> None:
    """Add noise to every parameter, and move the running statistics off their initial values."""
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(NOISE * torch.randn(parameter.shape, generator=source))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer += 0.1 * torch.randn(buffer.shape, generator=source)
            elif name.endswith("running_var"):
                buffer *= 0.5 + torch.rand(buffer.shape, generator=source)


def attempt(suite: str, name: str) -> dict[str, Any]:
    """Do to one model what a user would do, and say what came of it."""
    row: dict[str, Any] = {"suite": suite, "model": name}
    model, x = build(suite, name)
    disturb(model)
    row["params"] = sum(p.numel() for p in model.parameters())
    try:
        _attempt(row, model, x)
    except excise.ExciseError as error:
        kind = type(error).__name__
        row |= {"outcome": "refused", "reason": f"{kind}: {str(error).splitlines()[0]}"}
    except Exception as error:  # noqa: BLE001 - any other exception is what this benchmark looks for
        row |= {
            "outcome": "exception",
            "reason": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}",
            "traceback": traceback.format_exc()[-4000:],
        }
    return row


def _attempt(row: dict[str, Any], model: nn.Module, x: Tensor) -> None:
    start = time.perf_counter()
    graph = excise.trace(model, x)
    traced = time.perf_counter()
    row["trace_s"] = traced - start
    row["cuttable_share"] = graph.cuttable_share()
    row["groups"], row["pins"] = len(graph.groups), len(graph.pins)
    row["macs"] = graph.macs()
    plan = excise.plan(graph, excise.scores.magnitude(model, graph), keep_macs=KEEP_MACS)
    row["plan_s"] = time.perf_counter() - traced
    small = excise.remove(model, plan)
    row["kept_params"] = sum(p.numel() for p in small.parameters())
    row["rss_cut_mib"] = _peak_mib()
    start = time.perf_counter()
    verdict = excise.verify(model, small, plan, x)
    row["verify_s"] = time.perf_counter() - start
    row["worst"] = verdict.worst
    row["mixing"] = Counter(name.partition(" ")[0] for name in verdict.mixing)
    if verdict.passed:
        mixed = verdict.kind == "exact-with-mixing"
        row["outcome"] = "verified-with-mixing" if mixed else "verified-exact"
    else:
        row["outcome"] = "unproved" if verdict.kind == "unproved" else "wrong"
        row["reason"] = str(verdict).splitlines()[0]


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Job:
    """One model in its own process, watched from outside."""

    def __init__(self, suite: str, name: str, seconds: float, memory_mib: float) -> None:
        self.suite, self.name = suite, name
        self.seconds, self.memory_mib = seconds, memory_mib
        self.start, self.peak_mib = time.perf_counter(), 0.0
        self.out = tempfile.TemporaryFile("w+")
        command = [sys.executable, __file__, "--worker", suite, name]
        self.process = subprocess.Popen(command, stdout=self.out, stderr=subprocess.STDOUT)  # noqa: S603

    def poll(self) -> dict[str, Any] | None:
        """The result once there is one; kills what runs too long or grows too large."""
        status = Path(f"/proc/{self.process.pid}/status")
        if self.process.poll() is None:
            for line in status.read_text().splitlines():
                if line.startswith("VmRSS"):
                    self.peak_mib = max(self.peak_mib, int(line.split()[1]) / 1024)
            took = time.perf_counter() - self.start
            if took > self.seconds:
                return self._kill("timeout", f"longer than {self.seconds:.0f} s")
            if self.peak_mib > self.memory_mib:
                return self._kill("memory", f"more than {self.memory_mib:.0f} MiB")
            return None
        self.out.seek(0)
        lines = self.out.read().strip().splitlines()
        try:
            row = json.loads(lines[-1])
        except (IndexError, json.JSONDecodeError):
            row = self._row("exception", f"process ended with {self.process.returncode}")
            row["traceback"] = "\n".join(lines[-30:])
        row["peak_rss_mib"] = max(self.peak_mib, row.get("peak_rss_mib", 0.0))
        row["total_s"] = time.perf_counter() - self.start
        return dict(row)

    def _row(self, outcome: str, reason: str) -> dict[str, Any]:
        return {"suite": self.suite, "model": self.name, "outcome": outcome, "reason": reason}

    def _kill(self, outcome: str, reason: str) -> dict[str, Any]:
        self.process.kill()
        self.process.wait()
        return self._row(outcome, reason) | {"peak_rss_mib": self.peak_mib}


def work(todo: list[tuple[str, str]], jobs: int, seconds: float, mib: float) -> Iterator[dict[str, Any]]:
    """Run all models, a few at a time; yields results as they come."""
    running: list[Job] = []
    while todo or running:
        while todo and len(running) < jobs:
            running.append(Job(*todo.pop(0), seconds, mib))
        for job in list(running):
            row = job.poll()
            if row is not None:
                running.remove(job)
                yield row
        time.sleep(0.05)


def line(row: dict[str, Any]) -> str:
    """One result as a line of the table."""
    share = row.get("cuttable_share")
    return (
        f"{row['suite']:11s} {row['model']:36s} {row['outcome']:20s} "
        f"{row.get('params', 0) / 1e6:7.1f} M params  "
        f"{f'{100 * share:5.1f} %' if share is not None else '      -'} cuttable  "
        f"trace {row.get('trace_s', float('nan')):6.2f} s  total {row.get('total_s', 0):5.0f} s  "
        f"{row.get('peak_rss_mib', 0):6.0f} MiB  {row.get('reason', '')}"
    )


def summary(rows: list[dict[str, Any]]) -> str:
    """Shares and medians per suite."""
    out = []
    for suite in SUITES:
        mine = [r for r in rows if r["suite"] == suite]
        if not mine:
            continue
        counts = Counter(r["outcome"] for r in mine)
        good = sum(counts[o] for o in VERIFIED)
        detail = ", ".join(f"{counts[o]} {o}" for o in OUTCOMES if counts[o])
        out.append(f"{suite}: {good} of {len(mine)} verified ({100 * good / len(mine):.1f} %): {detail}")
        for key, label, unit in (
            ("cuttable_share", "share of parameters on a cuttable axis", ""),
            ("trace_s", "time of trace", " s"),
            ("peak_rss_mib", "peak RSS, proof included", " MiB"),
        ):
            values = [r[key] for r in mine if key in r]
            if values:
                out.append(
                    f"    {label}: median {statistics.median(values):.4g}{unit}, "
                    f"from {min(values):.4g} to {max(values):.4g}{unit}"
                )
    return "\n".join(out)


def stored() -> dict[tuple[str, str], dict[str, Any]]:
    """The results on disk, by suite and model."""
    if not RESULTS.exists():
        return {}
    rows = map(json.loads, RESULTS.read_text().splitlines())
    return {(r["suite"], r["model"]): r for r in rows}


def save(rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Write all results, sorted, rounded to what they mean."""
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w") as file:
        for key in sorted(rows):
            file.write(json.dumps(rows[key]) + "\n")


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """A row with floats to four digits, and without NaN (which is no JSON)."""
    out: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, float):
            out[key] = float(f"{value:.4g}") if value == value else None  # noqa: PLR0124 - NaN
        else:
            out[key] = value
    return out


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--suite", choices=SUITES, help="one suite (default: both)")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="models, or timm families")
    parser.add_argument("--failed", action="store_true", help="only what failed in the last run")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=240.0, help="time limit per model")
    parser.add_argument("--memory-mib", type=float, default=10_000.0, help="memory limit per model")
    parser.add_argument("--table", action="store_true", help="print the stored results, run nothing")
    parser.add_argument("--worker", nargs=2, metavar=("SUITE", "NAME"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the zoo, or one model of it as a worker."""
    given = options()
    if given.worker:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        row = attempt(*given.worker)
        row["peak_rss_mib"] = _peak_mib()
        print(json.dumps(row))
        return
    rows = stored()
    if not given.table:
        suites = [given.suite] if given.suite else SUITES
        todo = [(s, n) for s in suites for n in names(s)]
        if given.only:
            wanted = set(given.only)
            todo = [(s, n) for s, n in todo if wanted & {n, family(n) if s == "timm" else n}]
        if given.failed:
            todo = [k for k in todo if k in rows and rows[k]["outcome"] not in VERIFIED]
        for row in work(todo, given.jobs, given.seconds, given.memory_mib):
            rows[row["suite"], row["model"]] = rounded(row)
            save(rows)
            print(line(row), flush=True)
    else:
        print("\n".join(line(rows[key]) for key in sorted(rows)))
    print(summary(list(rows.values())))


if __name__ == "__main__":
    main()
