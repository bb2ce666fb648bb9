"""The story that the demo tells, as a value: measured stages, and claims that were checked."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import excise
from excise.demo.claim import Claim
from excise.demo.data import Split, digits
from excise.demo.mask import masked, zeros
from excise.demo.network import Digits
from excise.demo.train import accuracy, train
from excise.measure import Latency, latency, macs, params
from excise.units import milliseconds, size

KEEP_MACS = 0.4
_EPOCHS, _TUNING = 6, 4
_ROUNDS, _REPEATS = 20, 3
_TIMED = 128
_SLACK = 0.85  # of a time that did not change: other processes share the machine
_LOSS = 2.0  # points of accuracy that fine-tuning may leave missing
_PATIENCE_S = 300
TRAINED, ATTACHED, MASKED, CUT, TUNED = (
    "trained",
    "masks attached",
    "masked, prune.remove",
    "cut",
    "cut, fine-tuned",
)
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """One state of the network, measured.

    Attributes:
        name: what was done to it.
        params: distinct parameters.
        macs: multiply-adds for one image.
        file_bytes: length of the safetensors file that was written.
        latency: milliseconds for `Outcome.batch` images at once.
        accuracy: correct answers on the test images, in percent.
    """

    name: str
    params: int
    macs: int
    file_bytes: int
    latency: Latency
    accuracy: float


@dataclass(frozen=True)
class Outcome:
    """What one run of the demo found."""

    stages: tuple[Stage, ...]
    zeros: float
    verdict: excise.Verdict
    claims: tuple[Claim, ...]
    batch: int

    @property
    def holds(self) -> bool:
        """Whether every claim held."""
        return all(claim.holds for claim in self.claims)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "stages": [asdict(stage) for stage in self.stages],
            "masked_zeros_percent": self.zeros,
            "batch": self.batch,
            "claims": [claim._asdict() for claim in self.claims],
            "holds": self.holds,
        }


class Work(NamedTuple):
    """The networks by stage, their files, and how the last one came about."""

    models: Mapping[str, nn.Module]
    files: Mapping[str, Path]
    pruned: excise.Pruned


def run(tell: Tell = lambda _: None) -> Outcome:
    """Train, mask, cut, prove, fine-tune, save, reload in a fresh process; check every claim.

    Takes about half a minute, on one thread: the network is small, and two threads that wait for
    each other on a busy machine are slower than one. Torch's random state and threads are as
    before afterwards; nothing is left on the disk.

    Args:
        tell: called with each thing that is begun.

    Raises:
        RequestError: scikit-learn is not installed.
    """
    data = digits()
    alone = torch.random.fork_rng(devices=[])
    with alone, _one_thread(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        work = _work(data, Path(folder), tell)
        tell("measuring each of them")
        stages = _measured(work, data)
        tell("loading the small file in a fresh process")
        loaded = _fresh(work, data.test_images, Path(folder))
    found = {stage.name: stage for stage in stages}
    claims = (*_masking(found), *_cutting(found, work.pruned), loaded)
    verdict = work.pruned.verdict
    assert verdict is not None  # noqa: S101 - asked for
    return Outcome(stages, zeros(work.models[MASKED]), verdict, claims, _TIMED)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _work(data: Split, folder: Path, tell: Tell) -> Work:
    tell(f"training a residual network on {len(data.labels)} images of digits")
    trained = Digits()
    train(trained, data, epochs=_EPOCHS, rate=0.004)
    tell("masking it with torch.nn.utils.prune")
    models = {
        TRAINED: trained,
        ATTACHED: masked(trained, permanent=False),
        MASKED: masked(trained),
    }
    tell("cutting it with excise")
    pruned = excise.prune(
        trained, data.test_images[:1], keep_macs=KEEP_MACS, round_to=8, latency=False
    )
    tell("fine-tuning the small network")
    models[CUT] = pruned.model
    models[TUNED] = tuned = excise.remove(trained, pruned.plan)
    train(tuned, data, epochs=_TUNING, rate=0.002)
    files = {name: folder / f"{number}.safetensors" for number, name in enumerate(models)}
    for name, model in models.items():
        if name in {CUT, TUNED}:
            excise.save(model, pruned.plan, files[name])
        else:
            save_file(model.state_dict(), files[name])
    return Work(models, files, pruned)


def _measured(work: Work, data: Split) -> tuple[Stage, ...]:
    times = _times(work.models, data.test_images[:_TIMED])
    return tuple(
        Stage(
            name,
            params(model),
            macs(model, data.test_images[:1]),
            work.files[name].stat().st_size,
            times[name],
            accuracy(model, data),
        )
        for name, model in work.models.items()
    )


def _times(models: Mapping[str, nn.Module], images: Tensor) -> dict[str, Latency]:
    """The quietest of several rounds for each model; rounds take turns, so that all share noise."""
    best: dict[str, Latency] = {}
    for _ in range(_ROUNDS):
        for name, model in models.items():
            now = latency(model, images, repeats=_REPEATS, warmup=1)
            if name not in best or now.median_ms < best[name].median_ms:
                best[name] = now
    return best


def _masking(found: Mapping[str, Stage]) -> tuple[Claim, ...]:
    before, attached, after = found[TRAINED], found[ATTACHED], found[MASKED]
    same_size = after.params == before.params and after.macs == before.macs
    ratio = after.latency.median_ms / before.latency.median_ms
    return (
        Claim(
            "masking removes no parameter and no multiply-add",
            same_size,
            f"{before.params} and {after.params} parameters",
        ),
        Claim(
            "a file with the masks attached is larger, and without them as large as before",
            attached.file_bytes > before.file_bytes == after.file_bytes,
            f"{before.file_bytes}, {attached.file_bytes} and {after.file_bytes} bytes",
        ),
        Claim(
            "the masked network is not faster",
            ratio > _SLACK,
            f"{milliseconds(before.latency.median_ms)} and {milliseconds(after.latency.median_ms)}",
        ),
    )


def _cutting(found: Mapping[str, Stage], pruned: excise.Pruned) -> tuple[Claim, ...]:
    before, cut, tuned = found[TRAINED], found[CUT], found[TUNED]
    verdict = pruned.verdict
    return (
        Claim(
            f"at most {KEEP_MACS:.0%} of the multiply-adds stay, and fewer parameters and bytes",
            cut.macs <= KEEP_MACS * before.macs
            and cut.params < before.params
            and cut.file_bytes < before.file_bytes,
            f"{cut.macs / before.macs:.1%} of the MACs, {cut.params / before.params:.1%} of the "
            f"parameters, {size(cut.file_bytes)} instead of {size(before.file_bytes)}",
        ),
        Claim(
            "the cut network is faster",
            cut.latency.median_ms < _SLACK * before.latency.median_ms,
            f"{milliseconds(before.latency.median_ms)} and {milliseconds(cut.latency.median_ms)}",
        ),
        Claim(
            "removed equals silenced",
            verdict is not None and verdict.passed,
            str(verdict),
        ),
        Claim(
            f"{_TUNING} epochs bring the accuracy back to within {_LOSS:.0f} points",
            tuned.accuracy >= before.accuracy - _LOSS,
            f"{before.accuracy:.1f} % trained, {cut.accuracy:.1f} % cut, {tuned.accuracy:.1f} % "
            "fine-tuned",
        ),
    )


def _fresh(work: Work, images: Tensor, folder: Path) -> Claim:
    """Load in a new Python that knows two files, and compare the outputs bit for bit."""
    batch, outputs = folder / "batch.safetensors", folder / "outputs.safetensors"
    save_file({"images": images}, batch)
    command = [sys.executable, "-m", "excise.demo.again"]
    done = subprocess.run(  # noqa: S603 - this interpreter, this package, paths made here
        [*command, *map(str, (work.files[TUNED], batch, outputs)), str(torch.get_num_threads())],
        capture_output=True,
        check=False,
        text=True,
        timeout=_PATIENCE_S,
    )
    text = "a fresh process loads the file and computes the same outputs, bit for bit"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Claim(text, holds=False, evidence=f"it failed: {last}")
    with torch.no_grad():
        wanted = work.models[TUNED](images)
    found = load_file(outputs)["logits"]
    difference = float((wanted - found).abs().max())
    return Claim(text, torch.equal(wanted, found), f"largest difference {difference:.3g}")
