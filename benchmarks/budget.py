"""A speed that was asked for beside the one that was measured, and what it cost in accuracy.

Networks trained by other people, at most 512 calibration samples, no fine-tuning. Each is pruned to
`speedup=`, and then timed in turns with the dense one, anew: the ratio of the wall clock's times
(median over rounds, quartiles), and that of processor time, which leaves out what other programs
took of a busy machine. Torch-Pruning knows no time; its pruning ratio is searched until its
cut is as fast, by the same measurement.

    python benchmarks/budget.py                            # an hour on one core
    python benchmarks/budget.py --only resnet56 --peers L2
    python benchmarks/budget.py --steps                    # the staircase of one convolution alone
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import oneshot
import oneshot_peer
import torch
from torch import nn

import excise
from excise.measure.replay import watched
from excise.measure.table import table
from excise.refit import recalibrate

RESULTS = Path(__file__).parent / "results" / "budget.json"
SECONDS = 20.0  # of the last measurement
_CLOSE = 0.03
_ROUNDS = 6


class Setting(NamedTuple):
    """How one network is measured: images (or None: the zoo's example) of a pass, test examples."""

    images: int | None
    limit: int


SETTINGS = {
    "resnet56": Setting(32, 2000),
    "efficientnet_lite0": Setting(1, 250),
    "minilm": Setting(None, 1379),
}
SPEEDS = (1.5, 2.0)


def example(subject: oneshot.Subject, setting: Setting) -> tuple[Any, ...]:
    """The input on which a pass is timed."""
    if setting.images is None:
        return tuple(subject.example)
    return (subject.pairs[0][0][0][: setting.images],)


def timed(
    subject: oneshot.Subject, small: nn.Module, args: tuple[Any, ...]
) -> excise.measure.Speedup:
    """Dense and small in turns."""
    return excise.measure.speedup(subject.model, small, *args, seconds=SECONDS)


def spread(found: excise.measure.Speedup) -> dict[str, Any]:
    """A measurement as data."""
    keys = ("ratio", "low", "high", "rounds", "computed", "share")
    row: dict[str, Any] = {key: getattr(found, key) for key in keys}
    row["error"] = found.error
    row["before_ms"], row["after_ms"] = found.before.median_ms, found.after.median_ms
    row["threads"], row["hardware"] = found.before.threads, found.before.hardware
    return row


def own(name: str, speed: float, *, depth: bool = False) -> dict[str, Any]:
    """Pruned by excise, in its widths alone or with whole residual branches."""
    subject, setting = oneshot.Subject(name), SETTINGS[name]
    args = example(subject, setting)
    start = time.perf_counter()
    data = [b.args for b in subject.batches]
    found = excise.prune(
        subject.model, *args, speedup=speed, calibration=data, latency=False, depth=depth
    )
    seconds = time.perf_counter() - start
    assert found.verdict is not None  # noqa: S101 - for the type checker
    return {
        "asked": speed,
        "measured": spread(timed(subject, found.model, args)),
        "attempts": [{"aim": a.aim, **spread(a.found)} for a in found.attempts],
        "proof": found.verdict.kind,
        "seconds": seconds,
        **(oneshot.weighed(found) if depth else {}),
        **judged(subject, found.model, setting),
    }


def other(name: str, speed: float, criterion: str) -> dict[str, Any]:
    """Cut by Torch-Pruning until it is as fast."""
    subject, setting = oneshot.Subject(name), SETTINGS[name]
    args = example(subject, setting)
    tool = oneshot_peer.Cut(
        subject.model, subject.example, subject.pairs, oneshot.loss, subject.kept
    )
    low, high, tried = 0.0, 0.9, []
    try:
        tool.at(criterion, high / 2, everywhere=False)(*args)
    except Exception:  # noqa: BLE001 - the tool's own: then it cuts only inside of blocks
        tool.inner = True
    for _ in range(_ROUNDS):
        share = (low + high) / 2
        small = tool.at(criterion, share, everywhere=False)
        found = excise.measure.speedup(subject.model, small, *args, seconds=SECONDS / 2)
        tried.append((abs(found.steady[0] / speed - 1), share, small))
        if tried[-1][0] <= _CLOSE:
            break
        low, high = (low, share) if found.steady[0] > speed else (share, high)
    _, share, small = min(tried, key=lambda one: one[0])
    recalibrate(small, subject.batches)
    row = {
        "asked": speed, "removed": share, "inside": tool.inner,
        "measured": spread(timed(subject, small, args)),
    }  # fmt: skip
    return row | judged(subject, small, setting)


def judged(subject: oneshot.Subject, small: nn.Module, setting: Setting) -> dict[str, Any]:
    """What is left of the network."""
    return {
        "kept_macs": subject.kept(small),
        "score": oneshot.score(subject.item, small, setting.limit),
        "metric": subject.item.metric,
        "limit": setting.limit,
    }


def steps() -> dict[str, Any]:
    """The staircase of one convolution and one linear layer over their output widths."""
    found = {}
    layers: dict[str, tuple[list[nn.Module], torch.Tensor]] = {
        "convolution 3x3, 64 to 64 channels, 2 x 32 x 32": (
            [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)],
            torch.randn(2, 64, 32, 32),
        ),
        "linear, 256 to 256 features, 64 rows": (
            [nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)],
            torch.randn(64, 256),
        ),
    }
    for title, (modules, x) in layers.items():
        graph = excise.trace(nn.Sequential(*modules).eval(), x)
        row = table(watched(graph))[0]
        (size,), edge = row.profile.widths, row.profile.edges[0]
        widths = [n for n in range(size // 4, size + 1) if n % 8 in {0, 1}]
        found[title] = {n: float(edge[n] / edge[-1]) for n in widths}
    return found


def worker(name: str, speed: str, method: str) -> None:
    """Measure one row and print it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if method == "steps":
        row = steps()
    elif method == "dense":
        item = oneshot.Subject(name).item
        row = {"score": oneshot.score(item, item.model, SETTINGS[name].limit)}
    elif method in {"excise", oneshot.DEPTH}:
        row = own(name, float(speed), depth=method == oneshot.DEPTH)
    else:
        row = other(name, float(speed), method)
    print(json.dumps(row))


def keep_row(key: str, row: dict[str, Any]) -> None:
    """Add one row to what is stored."""
    found = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {"rows": {}}
    found["date"] = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
    found["rows"][key] = row
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def main() -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--speeds", nargs="*", type=float, default=list(SPEEDS))
    parser.add_argument("--peers", nargs="*", default=[], help="criteria of Torch-Pruning")
    parser.add_argument("--depth", action="store_true", help="only with whole residual branches")
    parser.add_argument("--steps", action="store_true", help="only the staircases")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(*given.worker)
        return
    jobs = [("", 0.0, "steps")]
    for name in () if given.steps else given.only:
        jobs.append((name, 1.0, "dense"))
        mine = [oneshot.DEPTH] if given.depth else ["excise"]
        jobs += [(name, s, m) for s in given.speeds for m in (*mine, *given.peers)]
    for name, speed, method in jobs:
        row = oneshot.ask(__file__, name, str(speed), method)
        keep_row(f"{name} | {speed:g} | {method}" if name else method, row)
        print(name, speed, method, json.dumps(row)[:400], flush=True)


if __name__ == "__main__":
    main()
