"""One model in its own process, watched from outside: a time limit, a memory limit, its peak.

The processes are forks of this one, in which the libraries are imported already; nothing of a model
is ever built here.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Worker = Callable[[str, str], dict[str, Any]]


PATIENCE = 8  # a process that waits for others may take so many times its seconds
TICKS = os.sysconf("SC_CLK_TCK")


class Limit(NamedTuple):
    """What one model may take: seconds of processor time, and memory."""

    seconds: float
    memory_mib: float


def peak_mib() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Job:
    """A worker process; its last line of output is a JSON object."""

    def __init__(self, worker: Worker, suite: str, name: str, limit: Limit) -> None:
        self.suite, self.name, self.limit = suite, name, limit
        self.start, self.peak_mib = time.perf_counter(), 0.0
        self.out = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self.pid = os.fork()
        if self.pid == 0:
            self._run(worker)

    def _run(self, worker: Worker) -> None:
        """The child's life; never returns."""
        code = 1
        try:
            os.dup2(self.out.fileno(), 1)
            os.dup2(self.out.fileno(), 2)
            row = worker(self.suite, self.name)
            row["peak_rss_mib"] = peak_mib()
            os.write(1, ("\n" + json.dumps(row) + "\n").encode())
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, it is the parent's to report
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def poll(self) -> dict[str, Any] | None:
        """The result once there is one; kills what runs too long or grows too large."""
        done, status = os.waitpid(self.pid, os.WNOHANG)
        if not done:
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS"):
                    self.peak_mib = max(self.peak_mib, int(line.split()[1]) / 1024)
            wall = time.perf_counter() - self.start
            if max(self._busy_s(), wall / PATIENCE) > self.limit.seconds:
                return self._kill("timeout", f"longer than {self.limit.seconds:.0f} s")
            if self.peak_mib > self.limit.memory_mib:
                return self._kill("memory", f"more than {self.limit.memory_mib:.0f} MiB")
            return None
        self.out.seek(0)
        lines = self.out.read().strip().splitlines()
        try:
            row = dict(json.loads(lines[-1]))
        except (IndexError, ValueError, TypeError):
            row = self._row("exception", f"process ended with {os.waitstatus_to_exitcode(status)}")
            row["traceback"] = "\n".join(lines[-30:])
        row["peak_rss_mib"] = max(self.peak_mib, row.get("peak_rss_mib", 0.0))
        row["total_s"] = time.perf_counter() - self.start
        return row

    def _busy_s(self) -> float:
        """Processor time so far, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def _row(self, outcome: str, reason: str) -> dict[str, Any]:
        return {"suite": self.suite, "model": self.name, "outcome": outcome, "reason": reason}

    def _kill(self, outcome: str, reason: str) -> dict[str, Any]:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        total = time.perf_counter() - self.start
        return self._row(outcome, reason) | {"peak_rss_mib": self.peak_mib, "total_s": total}


def work(
    worker: Worker, todo: list[tuple[str, str]], jobs: int, limit: Limit
) -> Iterator[dict[str, Any]]:
    """Run all models, a few at a time; yields results as they come."""
    running: list[Job] = []
    waiting = list(todo)
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(Job(worker, *waiting.pop(0), limit))
        for job in list(running):
            row = job.poll()
            if row is not None:
                running.remove(job)
                yield row
        time.sleep(0.02)
