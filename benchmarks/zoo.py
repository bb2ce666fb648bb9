"""Zero-effort coverage: trace, halve the MACs, cut and prove other people's networks, untouched.

Five suites (`suites/`): torchvision, timm, transformers, what others wrote, and micro cases. Each
model runs in a process of its own under a time and a memory limit, with random weights and noise on
top of every parameter. No line here knows a model. `--peer` does the same with Torch-Pruning (its
documented high-level way, `peer.py`), and the table has both columns.

    python benchmarks/zoo.py                                  # all suites, hours on 2 cores
    python benchmarks/zoo.py --suite timm --seed 0            # and a hundred further models of timm
    python benchmarks/zoo.py --suite timm --only vision_transformer --jobs 1
    python benchmarks/zoo.py --suite torchvision --peer
    python benchmarks/zoo.py --table                          # the table of the last runs again
    python benchmarks/zoo.py --edges                          # docs/sharp-edges.md from them
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from attempt import OUTCOMES, SUITES, VERIFIED, attempt, besides, suite
from job import Limit, Worker, work

import excise

RESULTS = Path(__file__).parent / "results"
Rows = dict[str, dict[str, Any]]


def line(row: dict[str, Any], peer: dict[str, Any] | None = None) -> str:
    """One result as a line of the table; `peer` is Torch-Pruning's on the same model."""
    share, kept = row.get("cuttable_share"), row.get("kept_macs")
    beside = f"| Torch-Pruning: {peer['outcome']:20s} " if peer else ""
    return (
        f"{row['suite']:12s} {row['model']:40s} {row['outcome']:20s} {beside}"
        f"{row.get('params', 0) / 1e6:7.2f} M params  {row.get('groups', 0):4d} axes  "
        f"{f'{100 * share:5.1f} %' if share is not None else '      -'} cuttable  "
        f"{f'{100 * kept:3.0f} %' if kept is not None else '  - '} MACs kept  "
        f"trace {row.get('trace_s', float('nan')):6.2f} s  total {row.get('total_s', 0):5.0f} s  "
        f"{row.get('peak_rss_mib', 0):6.0f} MiB  {row.get('reason', '')}"
    )


def summary(name: str, rows: list[dict[str, Any]], tool: str = "") -> str:
    """Shares and medians of a suite; models that do not run uncut are listed, and not counted."""
    ran = [r for r in rows if r["outcome"] != "does not run uncut"]
    if not ran:
        return f"{name}: nothing ran"
    counts = Counter(r["outcome"] for r in rows)
    good = sum(counts[o] for o in VERIFIED)
    known = [o for o in OUTCOMES if o in counts]
    detail = ", ".join(f"{counts[o]} {o}" for o in (*known, *sorted(set(counts) - set(known))))
    out = [f"{name}{tool}: {good} of {len(ran)} verified ({100 * good / len(ran):.1f} %): {detail}"]
    for key, label, unit in (
        ("cuttable_share", "share of parameters on a cuttable axis", ""),
        ("kept_macs", "share of MACs kept", ""),
        ("trace_s", "time of trace", " s"),
        ("peak_rss_mib", "peak RSS, proof included", " MiB"),
    ):
        values = [r[key] for r in ran if r.get(key) is not None]
        if values and not tool:
            out.append(
                f"    {label}: median {statistics.median(values):.4g}{unit}, "
                f"from {min(values):.4g} to {max(values):.4g}{unit}"
            )
    for key in ("loads", "generate", "generate_otherwise", "plain", "uniform"):
        said = Counter(str(r[key]).partition(":")[0] for r in ran if key in r)
        if said:
            out.append(f"    {key}: " + ", ".join(f"{n} {what}" for what, n in said.most_common()))
    return "\n".join(out)


def stored(name: str) -> Rows:
    """The results of a suite on disk, by model."""
    file = RESULTS / f"{name}.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return {str(row["model"]): row for row in map(json.loads, lines)}


def save(name: str, rows: Rows) -> None:
    """Write all results of a suite, sorted, one JSON object a line."""
    RESULTS.mkdir(exist_ok=True)
    text = "".join(json.dumps(rows[key]) + "\n" for key in sorted(rows))
    (RESULTS / f"{name}.jsonl").write_text(text)


def revision() -> str:
    """The commit of the code that runs, with a plus if code differs from it; empty outside git."""

    def git(*words: str) -> str:
        here = Path(__file__).parents[1]
        command = ["git", *words]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)  # noqa: S603
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "src", "benchmarks", ":!benchmarks/results")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """A row with floats to four digits, and without NaN and infinity (which are no JSON)."""
    out: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, float):
            out[key] = float(f"{value:.4g}") if math.isfinite(value) else None
        else:
            out[key] = value
    return out


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--suite", choices=SUITES, help="one suite (default: all)")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="models, or timm families")
    parser.add_argument("--seed", type=int, help="timm: a hundred further models by this seed")
    parser.add_argument("--failed", action="store_true", help="only what failed in the last run")
    parser.add_argument("--new", action="store_true", help="only what has no result yet")
    parser.add_argument("--peer", action="store_true", help="Torch-Pruning instead")
    parser.add_argument(
        "--more", action="store_true", help="no proof again: what is asked besides, for known rows"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=240.0, help="time limit per model")
    parser.add_argument("--memory-mib", type=float, default=10_000.0, help="memory limit per model")
    parser.add_argument(
        "--table", action="store_true", help="print the stored results, run nothing"
    )
    parser.add_argument("--edges", action="store_true", help="write docs/sharp-edges.md")
    return parser.parse_args()


def besides_of(row: dict[str, Any], more: dict[str, Any], commit: str) -> dict[str, Any]:
    """A row with what is asked besides, from a later run."""
    if "outcome" in more:  # it did not come to an end
        said = f"{more['outcome']}: {more.get('reason', '')}"
        return row | {"loads": said, "more_revision": commit}
    keys = ("loads", "generate", "generate_otherwise", "plain", "uniform")
    row = {k: v for k, v in row.items() if k != "generate_otherwise"}
    return row | {k: more[k] for k in keys if k in more} | {"more_revision": commit}


def worker(*, of_peer: bool, more: bool) -> Worker:
    """What is done to one model; everything that it needs is imported before it is forked."""
    tool = besides if more else None
    if of_peer:
        import peer  # noqa: PLC0415 - torch-pruning is needed for this alone

        tool = peer.cut
    return lambda name, model: rounded(attempt(name, model, tool))


def chosen(given: argparse.Namespace, name: str, rows: Rows) -> list[str]:
    """The models of a suite to run."""
    module = suite(name)
    todo = list(module.names())
    if name == "timm" and given.seed is not None:
        todo += module.drawn(given.seed)
    if given.only:
        wanted = set(given.only)
        family = getattr(module, "family", lambda n: n)
        todo = [n for n in todo if wanted & {n, family(n)}]
    if given.failed:
        todo = [n for n in todo if n in rows and rows[n]["outcome"] not in VERIFIED]
    if given.new:
        todo = [n for n in todo if n not in rows or (given.more and "loads" not in rows[n])]
    if given.more:
        todo = [n for n in todo if n in rows and rows[n]["outcome"] in VERIFIED]
        todo.sort(key=lambda n: rows[n].get("params", 0))  # so that a part of them is the most
    return todo


def main() -> None:
    """Run the zoo."""
    given = options()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # also: no threads that a fork would lose
    if given.edges:
        import edge  # noqa: PLC0415

        edge.write({name: stored(name) for name in SUITES})
        return
    for name in [given.suite] if given.suite else SUITES:
        file = f"{name}-peer" if given.peer else name
        rows, others = stored(file), stored(f"{name}-peer")
        if given.table:
            print("\n".join(line(rows[key], others.get(key)) for key in sorted(rows)))
        else:
            todo = [(name, n) for n in chosen(given, name, rows)]
            getattr(suite(name), "prepare", lambda: None)()
            excise.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))  # its imports, before the forks
            limit = Limit(given.seconds, given.memory_mib)
            commit = revision()
            do = worker(of_peer=given.peer, more=given.more)
            for row in work(do, todo, given.jobs, limit):
                old = rows.get(row["model"], {})
                row = besides_of(old, row, commit) if given.more else row | {"revision": commit}  # noqa: PLW2901
                rows[row["model"]] = rounded(row)
                save(file, rows)
                print(line(row), flush=True)
        print(summary(name, list(rows.values()), " by Torch-Pruning" if given.peer else ""))
        if others and not given.peer:
            print(summary(name, list(others.values()), " by Torch-Pruning"))


if __name__ == "__main__":
    main()
