"""Whole networks with zeros: excise beside torch, ONNX Runtime, OpenVINO and DeepSparse.

Random weights, the smallest of every layer set to zero. Every engine is a process of its own that
prepares once; then they take turns, one at a time, in another order in each round, so that whatever
else the machine does slows all of them alike. Outputs are held against eager torch's. Engines that
do not look for zeros are prepared once for all shares of a network.

    python benchmarks/engines.py --environments FOLDER    # hours on two quiet cores
    python benchmarks/engines.py --environments FOLDER --only bert --zeros 80 --batch 1 --threads 1
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import environments
import torch
from engine_nets import NETS

from excise.measure.latency import hardware

RESULTS = Path(__file__).parent / "results" / "engines.json"
HERE = Path(__file__).parent
HOMES = {
    "eager": "", "eager channels_last": "", "inductor": "", "excise": "", "excise compiled": "",
    "ONNX Runtime": "runtimes", "OpenVINO": "runtimes", "OpenVINO bf16": "runtimes",
    "DeepSparse": "deepsparse",
}  # fmt: skip
"""Engine -> the environment that it lives in; none for this one."""
SPARSE = ("excise", "excise compiled", "DeepSparse")
CLOSE, CLOSE_BF16 = 1e-3, 0.2
"""Of the largest element. In bfloat16, MobileNets of random weights end a tenth from float32."""
ROUNDS, TURN_S, PAUSE_S = 7, 0.5, 0.05


class Engine:
    """A worker process, and what it measured."""

    def __init__(self, name: str, python: Path, net: str, folder: Path, threads: int) -> None:
        self.name = name
        self.noise = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        words = [str(python), str(HERE / "engine_worker.py"), name, net, str(folder), str(threads)]
        own = python == Path(sys.executable)
        around = (dict(os.environ) if own else environments.clean()) | {
            key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NM_NUM_THREADS")
        }
        self.process = subprocess.Popen(  # noqa: S603 - a file beside this one
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.noise, text=True,
            env=around,
        )  # fmt: skip
        self.row = self._answer()
        allowed = CLOSE_BF16 if "bf16" in name else CLOSE
        if not self.row.get("difference", 0) <= allowed:
            self.row = {"failed": f"its output differs by {self.row['difference']:.1e}"}
        self.wall: list[float] = []
        self.cpu: list[float] = []

    @property
    def works(self) -> bool:
        """Whether it can take turns."""
        return "difference" in self.row

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None  # noqa: S101 - for the type checker
        line = self.process.stdout.readline()
        if line:
            return dict(json.loads(line))
        self.noise.seek(0)
        last = (self.noise.read().strip().splitlines() or ["no message"])[-1]
        return {"failed": f"ended with {self.process.wait()}: {last[:300]}"}

    def turn(self, seconds: float) -> None:
        """Run for so long."""
        assert self.process.stdin is not None  # noqa: S101 - for the type checker
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        found = self._answer()
        if "failed" in found:
            self.row = found
            return
        self.wall += found["wall"]
        self.cpu += found["cpu"]

    def found(self) -> dict[str, Any]:
        """The row of this engine; times begin anew."""
        row = dict(self.row)
        if self.works:
            row |= {"wall_ms": spread(self.wall), "cpu_ms": spread(self.cpu)}
            row["calls"] = len(self.wall)
        self.wall, self.cpu = [], []
        return row

    def end(self) -> None:
        """Let the process go."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.noise.close()


def spread(times: list[float]) -> dict[str, float]:
    """The least, the median and the quartiles."""
    low, median, high = statistics.quantiles([*times, *times], n=4, method="inclusive")
    return {"least": min(times), "median": median, "low": low, "high": high}


class Table:
    """All rows of one network, batch and number of threads."""

    def __init__(self, net: str, batch: int, threads: int, given: argparse.Namespace) -> None:
        self.net, self.batch, self.threads, self.given = net, batch, threads, given
        self.dense: list[Engine] = []
        homes = {*HOMES.values(), "onnx"}
        self.pythons = {home: homed(home, given.environments) for home in homes}

    def row(self, zeros: int, folder: Path) -> dict[str, Any]:
        """Every engine at one share of zeros, in turns."""
        left(self.net, zeros, self.batch, folder, self.pythons["onnx"])
        names = self.given.engines
        rows: dict[str, Any] = {}
        if not self.dense:
            self.dense = list(self._started([n for n in names if n not in SPARSE], folder, rows))
        sparse = list(self._started([n for n in names if n in SPARSE], folder, rows))
        for path in folder.iterdir():
            path.unlink()
        running = [e for e in (*self.dense, *sparse) if e.works]
        order = random.Random(0)  # noqa: S311 - turns, not secrets
        for _ in range(self.given.rounds):
            order.shuffle(running)
            for engine in running:
                if engine.works:
                    time.sleep(PAUSE_S)  # threads that still spin are given time to stop
                    engine.turn(TURN_S)
        for engine in (*self.dense, *sparse):
            rows[engine.name] = engine.found()
        for engine in sparse:
            engine.end()
        return {name: rows[name] for name in names if name in rows}

    def _started(self, names: list[str], folder: Path, rows: dict[str, Any]) -> Iterator[Engine]:
        for name in names:
            python = self.pythons[HOMES[name]]
            if isinstance(python, str):
                rows[name] = {"missing": python}
            elif name == "eager channels_last" and not NETS[self.net].images:
                continue
            else:
                engine = Engine(name, python, self.net, folder, self.threads)
                print(f"  {name}: {engine.row}", flush=True)
                yield engine

    def end(self) -> None:
        """Let the dense engines go."""
        for engine in self.dense:
            engine.end()


def homed(home: str, folder: Path) -> Path | str:
    """The Python of an environment, or why there is none."""
    return environments.made(home, folder) if home else Path(sys.executable)


def left(net: str, zeros: int, batch: int, folder: Path, onnx: Path | str) -> None:
    """Have a network prepared in a folder."""
    words = [sys.executable, str(HERE / "engine_nets.py"), net, str(zeros / 100), str(batch)]
    words += [str(folder), *([] if isinstance(onnx, str) else [environments.packages_of(onnx)])]
    done = subprocess.run(words, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode:  # without `onnx` the peers fail to find the file, and their rows say so
        print((done.stderr.strip().splitlines() or ["no message"])[-1], flush=True)


def keep(key: str, row: dict[str, Any]) -> None:
    """Add one row to what is stored."""
    found = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {"rows": {}}
    found["date"] = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
    found["hardware"] = hardware(torch.device("cpu"))
    found["versions"] = {"torch": torch.__version__} | {
        name: list(environments.ENVIRONMENTS[name].packages) for name in set(HOMES.values()) if name
    }
    found["rows"][key] = row
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def told(row: dict[str, Any], threads: int) -> str:
    """Times as fast as eager torch, engine by engine."""
    kind = "cpu_ms" if threads == 1 else "wall_ms"
    base = row.get("eager", {}).get(kind, {}).get("least")
    parts = []
    for name, found in row.items():
        least = found.get(kind, {}).get("least")
        parts.append(f"{name} {base / least:.2f}x" if base and least else f"{name} -")
    return ", ".join(parts)


def main() -> None:
    """Measure, store, print."""
    ask = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    ask.add_argument("--environments", type=Path, required=True, help="where tools are installed")
    ask.add_argument("--only", nargs="*", choices=list(NETS), default=list(NETS))
    ask.add_argument("--zeros", nargs="*", type=int, default=[50, 70, 80, 90, 95], help="percent")
    ask.add_argument("--batch", nargs="*", type=int, default=[1, 16])
    ask.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    ask.add_argument("--engines", nargs="*", choices=list(HOMES), default=list(HOMES))
    ask.add_argument("--rounds", type=int, default=ROUNDS)
    ask.add_argument("--again", action="store_true", help="rows that are there already, too")
    given = ask.parse_args()
    for net, batch, threads in (
        (n, b, t) for n in given.only for b in given.batch for t in given.threads
    ):
        stored = json.loads(RESULTS.read_text("utf-8"))["rows"] if RESULTS.exists() else {}
        keys = {z: f"{net} | {z} | {batch} | {threads}" for z in given.zeros}
        todo = [z for z in given.zeros if given.again or keys[z] not in stored]
        table = Table(net, batch, threads, given)
        try:
            for zeros in todo:
                print(keys[zeros], flush=True)
                with tempfile.TemporaryDirectory() as work:
                    row = table.row(zeros, Path(work))
                keep(keys[zeros], row)
                print(f"{keys[zeros]}: {told(row, threads)}", flush=True)
        finally:
            table.end()


if __name__ == "__main__":
    main()
