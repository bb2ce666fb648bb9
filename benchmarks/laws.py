"""Run random networks through every law, and count.

    python benchmarks/laws.py [--networks 2000] [--seed 0] [--write]

Prints one JSON object: networks, violations by law, how many groups there were to cut, the share of
examples in which something was cut, and seconds. `--write` also writes results/laws.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.laws.cut import Cut, Request, cut, requests
from tests.laws.test_law import LAWS

RESULT = Path(__file__).parent / "results" / "laws.json"
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


class Count:
    """What was seen so far."""

    def __init__(self) -> None:
        self.networks = self.changed = self.refused = 0
        self.violations: list[dict[str, str]] = []
        self.groups: Counter[int] = Counter()
        self.families: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.worst = 0.0
        self.started = time.monotonic()

    def violated(self, law: str, request: Request, error: Exception) -> None:
        """Write a violation down."""
        text = f"{type(error).__name__}: {error}"[:400]
        self.violations.append({"law": law, "request": repr(request), "error": text})
        print(json.dumps(self.violations[-1]), file=sys.stderr, flush=True)

    def look(self, request: Request) -> None:
        """Show one request to every law."""
        self.networks += 1
        self.families[request.network.family] += 1
        try:
            found = cut(request)
        except Exception as error:  # noqa: BLE001 - a violation, whatever it is
            self.violated("cut", request, error)
            return
        self.groups[len(found.graph.groups)] += 1
        self.changed += bool(found.plan.tensors)
        self.refused += found.refused
        self.judge(found)
        if self.networks % 100 == 0:
            print(f"{self.networks} networks, {len(self.violations)} violations", file=sys.stderr)

    def judge(self, found: Cut) -> None:
        """Every law, each on its own."""
        for law, holds in LAWS.items():
            try:
                holds(found)
            except Exception as error:  # noqa: BLE001, PERF203 - the same
                self.violated(law, found.request, error)
        self.notes.update(found.notes)
        self.verdicts[found.verdict.kind] += 1
        self.worst = max(self.worst, found.verdict.worst)

    def summary(self) -> dict[str, Any]:
        """Everything as JSON."""
        return {
            "networks": self.networks,
            "violations": len(self.violations),
            "violations_by_law": dict(Counter(v["law"] for v in self.violations)),
            "examples_of_violations": self.violations[:20],
            "families": dict(self.families),
            "something_was_cut_share": round(self.changed / max(self.networks, 1), 4),
            "unit_plans_refused_by_rehearsal": self.refused,
            "notes": dict(self.notes),
            "verdicts": dict(self.verdicts),
            "worst_relative_difference": self.worst,
            "groups_per_network": {str(k): v for k, v in sorted(self.groups.items())},
            "seconds": round(time.monotonic() - self.started, 1),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "processor": platform.machine(),
        }


def main() -> None:
    """Read the arguments, draw, count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=2000, help="how many to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    parser.add_argument("--write", action="store_true", help=f"also write {RESULT.name}")
    given_ = parser.parse_args()
    warnings.filterwarnings("ignore", message="LSTM with projections")
    torch.set_num_threads(1)
    count = Count()

    @seed(given_.seed)
    @settings(
        max_examples=given_.networks,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=QUIET,
    )
    @given(requests())
    def shown(request: Request) -> None:
        count.look(request)

    shown()
    text = json.dumps(count.summary(), indent=2)
    print(text)
    if given_.write:
        RESULT.write_text(text + "\n", "utf-8")
    sys.exit(bool(count.violations))


if __name__ == "__main__":
    main()
