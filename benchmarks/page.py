"""Write docs/benchmarks.md from what the other scripts measured.

Each of them leaves its numbers in `benchmarks/results`; this one only lays them out, so that no
number on the page was typed.

    python benchmarks/page.py
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import page_sparse
import zoo
from attempt import SUITES, VERIFIED
from layout import table

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Every number here was left in `benchmarks/results` by the script that heads its section, and laid
out by `benchmarks/page.py`. Measured on two cores of a shared x86 server processor with AVX-512,
with CPU builds of the versions in `constraints.txt`. Absolute times on such a machine are noise;
ratios were measured side by side in one process.
"""


def coverage(_: Any) -> Iterator[str]:
    """What became of other people's networks."""
    rows = []
    for suite in SUITES:
        found = list(zoo.stored(suite).values())
        ran = [r for r in found if r["outcome"] != "does not run uncut"]
        if not ran:
            continue
        shares = [r["cuttable_share"] for r in ran if r.get("cuttable_share") is not None]
        broken = sum(r["outcome"] in {"wrong", "exception"} for r in ran)
        rows.append((
            suite, len(ran), _verified(ran), broken,
            f"{100 * statistics.median(shares):.2f} %" if shares else "", _peer(suite),
            len(found) - len(ran),
        ))  # fmt: skip
    yield (
        "Traced, cut to half of their multiply-adds, and proved, each in a process of its own and "
        "without a line that is specific to a model. *Verified*: removed equals silenced, below "
        "1e-9 in float64. What is not verified is refused with reasons, or ran into the limit of "
        "memory (10 GB; 18 GB for `vit_h_14`) or of processor time; *broken* counts wrong results "
        "and exceptions. Torch-Pruning is held to the same proof, its documented high-level way "
        "with no help for any model (`peer.py`), within 120 s; its last rows within 45 s of "
        "processor time (torchvision), 30 s (timm) and 20 s (transformers), where excise had 240 s."
    )
    yield table(
        ("suite", "networks", "verified", "broken", "median share of parameters that may be cut",
         "verified by Torch-Pruning", "do not run uncut here"), rows,
    )  # fmt: skip
    yield from _rivals()
    yield from _besides()
    for suite in SUITES:
        others = [r for r in zoo.stored(suite).values() if r["outcome"] not in VERIFIED]
        if others:
            lines = [
                f"- `{r['model']}`: {r['outcome']}; {_first(r.get('reason', ''))}"
                for r in others
                if r["outcome"] != "does not run uncut"
            ]
            if lines:
                yield f"Not verified in {suite}:\n\n" + "\n".join(lines)
    yield _revisions()


def _verified(rows: Sequence[dict[str, Any]]) -> str:
    count = sum(r["outcome"] in VERIFIED for r in rows)
    return f"{count} ({100 * count / len(rows):.1f} %)"


def _peer(suite: str) -> str:
    """Torch-Pruning's share of the networks it was run on."""
    ours, found = zoo.stored(suite), list(zoo.stored(f"{suite}-peer").values())
    ran = [r for r in found if r["outcome"] != "does not run uncut"]
    if not ran:
        return "not run"
    part = "" if len(ran) == len(ours) else f", of {len(ran)} run"
    return _verified(ran) + part


def _rivals() -> Iterator[str]:
    """What Torch-Pruning came to, by outcome."""
    rows = []
    for suite in SUITES:
        found = Counter(r["outcome"] for r in zoo.stored(f"{suite}-peer").values())
        if not found:
            continue
        verified = sum(found.pop(o, 0) for o in VERIFIED)
        columns = [found.pop(o, 0) for o in _OUTCOMES]
        rows.append((suite, verified, *columns, sum(found.values())))
    if rows:
        yield "Torch-Pruning by outcome; *not proved*: it runs, and differs from the reference."
        yield table(("suite", "verified", *_OUTCOMES.values(), "other"), rows)


_OUTCOMES = {
    "runs, not proved": "not proved", "wrong": "wrong", "exception": "raises",
    "removes nothing": "removes nothing", "timeout": "timeout",
}  # fmt: skip


def _besides() -> Iterator[str]:
    """Cut models saved and loaded, generating, and read by transformers alone."""
    for suite in SUITES:
        proved = [r for r in zoo.stored(suite).values() if r["outcome"] in VERIFIED]
        rows = [r for r in proved if "loads" in r]
        if rows:
            good = sum(r["loads"] == "loads" for r in rows)
            run = sum(r["loads"] == "loads into an original that has run" for r in rows)
            yield (
                f"Saved with `excise.save` and loaded with the factory of the original ({suite}): "
                f"{good} of {len(rows)} tried say the same (of {len(proved)} verified)"
                + f", and {run} that change while they run, once the original has run." * bool(run)
                + "." * (not run)
            )
    rows = list(zoo.stored("transformers").values())
    said = [str(r["generate"]) for r in rows if "generate" in r]
    runs, fails = (sum(s.startswith(w) for s in said) for w in ("runs", "fails"))
    uncut = sum(s.startswith("the uncut") for s in said)
    if said:
        yield (
            f"`generate()` with a cache, after the cut: {runs} of {runs + fails} families that "
            f"generate uncut ({uncut} have the method, and do not generate uncut with these small "
            f"configurations; {len(said) - runs - fails - uncut} are no generators)."
        )
    ways = Counter(str(r["generate_otherwise"]) for r in rows if "generate_otherwise" in r)
    if ways:
        found = "; ".join(f"{n} with `{way}`" for way, n in ways.most_common() if way != "not")
        total = sum(ways.values())
        yield f"Of the {total} that fail, these run if they are cut so: {found or 'none'}."
    told = Counter(str(r["uniform"]).partition(":")[0] for r in rows if "uniform" in r)
    nothing = told.pop("nothing that its configuration could say", 0)
    uncut = told.pop("the uncut model does not", 0)
    if told:
        yield (
            f"`uniform=True`, saved with `save_pretrained` and read by plain `from_pretrained` in "
            f"a process that has no excise: {told['reloads']} of {sum(told.values())} families say "
            f"the same. In {nothing} further ones no number of the configuration sets the length "
            f"of an axis that may be cut; {uncut} do not reload uncut either."
        )
    told = Counter(
        str(r["plain"]).partition(":")[0]
        for r in rows
        if "plain" in r and not str(r["uniform"]).startswith("the uncut model does not")
    )
    if told:
        yield (
            f"Cut to half of the multiply-adds without `uniform=True`, `from_pretrained` alone "
            f"reads {told['reloads']} of {sum(told.values())} tried and refuses {told['fails']}; "
            f"{told['reloads to another output']} it reads as something else."
        )


def _revisions() -> str:
    """On which commits the rows were measured."""
    parts = []
    for suite in SUITES:
        found = Counter(r.get("revision", "") for r in zoo.stored(suite).values())
        words = [f"{n} on {r or 'earlier ones'}" for r, n in found.most_common()]
        parts += [f"{suite}: {', '.join(words)}"] if words else []
    return (
        "Rows by the commit they were measured on (`+`: and changes that came with the next). "
        + ("; ".join(parts) + ".")
    )


def _first(reason: str) -> str:
    return reason.partition("\n")[0][:150].removesuffix(" What holds the rest:")


def laws(found: Any) -> Iterator[str]:
    """Random networks."""
    verdicts = ", ".join(f"{n:,} {kind}" for kind, n in found["verdicts"].items())
    yield (
        f"{found['networks']:,} networks drawn from a grammar, each cut at random and held against "
        f"every law of `tests/laws`: **{found['violations']} violations**. In "
        f"{100 * found['something_was_cut_share']:.1f} % something was cut. Verdicts: {verdicts}; "
        f"worst relative difference {found['worst_relative_difference']:.1e}. "
        f"{found['seconds']:.0f} s on one thread."
    )


def tracing(found: Any) -> Iterator[str]:
    """Time and memory of reading a model."""
    rows = []
    for name, row in found["models"].items():
        ours, theirs = row["seconds"].get("excise"), row["seconds"].get("torch_pruning")
        memory = [row[tool]["first"] for tool in ("excise", "torch_pruning") if row.get(tool)]
        growth = [f"{m['growth_bytes'] / 2**20:.0f} MiB" for m in memory]
        ratio = spread = ""
        if ours and theirs:
            ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
            ratio = f"{statistics.median(ratios):.1f}x"
            spread = f"{ratios[0]:.1f} to {ratios[-1]:.1f}"
        size = memory[0]["model_bytes"] if memory else 1
        share = f"{1 + memory[0]['growth_bytes'] / size:.2f}x" if memory else ""
        rows.append((
            name, f"{statistics.median(ours):.2f} s" if ours else "", ratio, spread,
            f"{size / 2**20:.0f} MiB", *(growth + [""] * 2)[:2], share,
        ))  # fmt: skip
    yield (
        "Against the graph building of Torch-Pruning "
        f"{found.get('versions', {}).get('torch-pruning', '')}, {found.get('rounds', '')} rounds "
        "side by side. *Grows by*: peak memory of the process while tracing, above what it holds "
        "with the model loaded; *in all* is that and the model, as a multiple of the model."
    )
    yield table(
        ("network", "excise", "faster by", "range", "model", "grows by", "Torch-Pruning grows by",
         "excise in all"), rows,
    )  # fmt: skip
    if found.get("huge"):
        huge = found["huge"]
        yield (
            f"A LLaMA of {huge['params'] / 1e9:.1f} B parameters on the meta device: "
            f"{huge['seconds']:.2f} s, {huge['growth_bytes'] / 2**20:.0f} MiB."
        )
    if found.get("depth"):
        depth = [(d["layers"], d["ops"], f"{d['seconds']:.2f} s") for d in found["depth"]]
        yield table(("layers", "operations", "trace"), depth)


def real(found: Any) -> Iterator[str]:
    """Trained networks, cut in half."""
    yield (
        "Each network of the test data, cut to half of its multiply-adds by magnitude, verified, "
        "saved, and reloaded in another process. Nothing makes up for what was removed here, and "
        "the last column says so."
    )
    rows = []
    for name, r in found["models"].items():
        if "verdict" not in r:
            rows.append((name, *[""] * 5, str(r.get("error", r.get("outcome", "")))[:60], ""))
            continue
        before, after = r["score"]
        rows.append((
            name, f"{r['params'][1] / r['params'][0]:.3f}", f"{r['macs'][1] / r['macs'][0]:.3f}",
            f"{r['file_bytes'][1] / r['file_bytes'][0]:.3f}", f"{r['verdict']}, {r['worst']:.0e}",
            f"{r['reload_worst']:.0e}", r["metric"].partition(",")[0],
            f"{before:.4g} -> {after:.4g}",
        ))  # fmt: skip
    yield table(
        ("network", "parameters", "MACs", "file", "verdict, worst difference",
         "difference once reloaded", "metric", "without compensation"), rows,
    )  # fmt: skip


def shrink(found: Any) -> Iterator[str]:
    """Masked networks, made smaller exactly, beside other tools."""
    yield (
        "Half of the filters of every convolution are masked (in the ViT the values of half the "
        "heads). *Least*: what stays if every dead filter went, whatever its constant does. The "
        "number after the parameters is the worst relative difference of the outputs."
    )
    rows = []
    for r in found["rows"]:
        cells = []
        for tool in ("excise", "Torch-Pruning", "torch-simplify", "torch.ao.pruning"):
            one = r.get(tool, {})
            cells.append(
                f"{one['params'] / 1e6:.3f} M, {one['worst_relative_difference']:.0e}"
                if "params" in one
                else "fails"
            )
        rows.append((r["model"], f"{r['least_params'] / 1e6:.3f} M", *cells))
    yield table(
        ("network", "least", "excise", "Torch-Pruning", "torch-simplify", "torch.ao.pruning"), rows
    )
    seconds = [
        (
            r["model"],
            f"{r['excise']['seconds']:.2f} s",
            f"{r['excise']['cpu_seconds']:.2f} s",
            r.get("threads", found.get("threads", "")),
        )
        for r in found["rows"]
    ]
    yield (
        "Time of excise beyond the trace, comparison included. Where the second column is "
        "much less than the first, the machine was busy with something else:"
    )
    yield table(("network", "on the clock", "of CPU", "threads"), seconds)


def shrink_real(found: Any) -> Iterator[str]:
    """Trained networks with masks."""
    yield (
        "Trained networks with masked filters, shrunk: how many predictions changed, and what is "
        "left. (Nothing was trained after masking; the scores are those of the masks.)"
    )
    rows = []
    for r in found["rows"]:
        kept = {k: f"{100 * v:.0f} %" for k, v in r["kept"].items()}
        rows.append((
            r["network"], f"{100 * r['share']:.0f} % {r['masked']}",
            f"{r['different']} of {r['decisions']:,}", f"{r['worst_relative_difference']:.0e}",
            f"{r['before']:.4g} = {r['after']:.4g}", kept.get("parameters", ""),
            kept.get("in a file", ""), kept.get("in memory", ""), kept.get("latency, median", ""),
        ))  # fmt: skip
    yield table(
        ("network", "masked", "predictions changed", "worst difference", "score", "parameters",
         "file", "memory", "latency"), rows,
    )  # fmt: skip


def budget(found: Any) -> Iterator[str]:
    """A speed asked for, and the one that was measured."""
    yield (
        "Pruned to `speedup=` with at most 512 calibration samples and no fine-tuning, then timed "
        "in turns with the dense network, anew, on one thread: median ratio of the rounds by the "
        "wall clock with its quartiles and standard error, and by processor time, which leaves out "
        "what other programs took of the machine (*share* of it that the models got). ResNet-56 on "
        "32 images, EfficientNet-Lite0 on one, the encoder on 32 sentences. Torch-Pruning is cut "
        "until its measured speed is the same, or as near as six trials come; *inside*: within "
        "blocks alone, where its cut of the whole network does not run. *excise, depth*: whole "
        "residual branches may go."
    )
    rows = []
    for key, row in found["rows"].items():
        name, _, rest = key.partition(" | ")
        speed, _, method = rest.partition(" | ")
        if name == "steps" or not rest:
            continue
        if "score" not in row:
            rows.append((name, method, speed, row.get("failed", ""), *[""] * 6))
        elif method == "dense":
            rows.append((name, method, "1", *[""] * 6, f"{row['score']:.4g}"))
        else:
            m = row["measured"]
            rows.append((
                name, f"{method}{' (inside)' if row.get('inside') else ''}", speed,
                f"{m['ratio']:.3f}", f"{m['low']:.2f} to {m['high']:.2f}",
                f"{100 * m['error']:.1f} %", f"{m['computed']:.3f}", f"{100 * m['share']:.0f} %",
                f"{100 * row['kept_macs']:.1f} %", f"{row['score']:.4g}",
            ))  # fmt: skip
    yield table(
        ("network", "method", "asked", "measured", "quartiles", "standard error",
         "by processor time", "share", "MACs kept", "score"), rows,
    )  # fmt: skip
    for title, widths in found["rows"].get("steps", {}).items():
        yield f"Time over output widths, {title}, of that at full width:"
        yield table(("width", *widths), [("time", *(f"{t:.2f}" for t in widths.values()))])


def oneshot(found: Any) -> Iterator[str]:
    """Accuracy after one cut, beside other methods."""
    yield (
        "One cut, no fine-tuning, at most 512 unlabelled samples, the same budget counted alike "
        "for all, on trained networks of other people. `tp` is Torch-Pruning with its criteria, "
        "each layer alone or all together (*global*); it, magnitude and random get their batch "
        "norms recalibrated on the same samples, FLAP its biases. Where Torch-Pruning's cut of a "
        "whole network does not run, only layers inside blocks were cut (*inside*). *Faster*: "
        "measured in turns with the dense network. *excise, depth*: whole residual branches may "
        "go. *excise, blocks* adds 100 steps of block reconstruction on the same samples; *200 "
        "steps*: of all blocks together, the same pictures shifted and mirrored. Rows of "
        "*2 epochs* are no one shot: recovery toward the dense model's blocks and outputs, on "
        "10,000 or all 50,000 training pictures, shifted and mirrored, without labels. *Took* is "
        "left out where the processor was shared with much else."
    )
    groups: dict[tuple[str, str, str], list[tuple[str, Any]]] = {}
    dense: dict[tuple[str, str], Any] = {}
    for key, row in found["rows"].items():
        name, keep, method, limit = key.split(" | ")
        if method == "dense":
            dense[name, limit] = row
        else:
            groups.setdefault((name, keep, limit), []).append((method, row))
    for (name, keep, limit), rows in groups.items():
        before = dense.get((name, limit), {}).get("score")
        scored = [(method, r) for method, r in rows if "score" in r]
        if before is None or not scored:
            continue
        first = scored[0][1]
        sign = -1 if first["better"] == "higher" else 1
        scored.sort(key=lambda pair: sign * pair[1]["score"])
        examples = "all" if limit == "0" else limit
        yield (
            f"**{name}**, {keep} kept: {first['metric']} ({first['better']} is better), {examples} "
            f"examples; dense {before:.4g}."
        )
        lines: list[tuple[object, ...]] = [
            (
                f"{method}{' (inside)' if 'whole' in r else ''}", f"{r['score']:.4g}",
                f"{r['kept']:.3f}", f"{r['params']:.3f}", f"{r['latency']:.2f}x",
                f"{r['seconds']:.0f} s" if "seconds" in r else "", r["proof"][:24],
            )
            for method, r in scored
        ]  # fmt: skip
        lines += [
            (method, "failed", *[""] * 4, r.get("failed", "")) for method, r in rows
            if "score" not in r
        ]  # fmt: skip
        yield table(("method", "score", "kept", "parameters", "faster", "took", "proof"), lines)


def calibrating(found: Any) -> Iterator[str]:
    """What calibration costs."""
    yield (
        "Watching, ranking, probing and refitting, without proof and timing: processor seconds of "
        "residual networks on one thread, with 128 samples for each depth and 8 blocks for each "
        "number of samples."
    )
    for key in ("blocks", "samples"):
        rows = found[key]
        yield table(
            (key, "seconds", f"per 100 {key}"),
            [(n, f"{taken:.1f}", f"{100 * taken / n:.1f}") for n, taken in rows],
        )
    if "resnet50" in found:
        whole = found["resnet50"]
        yield (
            f"ResNet-50, 512 images of 224 x 224, two threads: {whole['seconds']:.0f} s, at most "
            f"{whole['peak_mib']:.0f} MiB."
        )


def packed(found: Any) -> Iterator[str]:
    """Files of weights with zeros."""
    yield (
        "Weights pruned by magnitude (Gaussian ones of the shapes of a BERT layer and of "
        "ResNet-50's convolutions, and those of trained networks), in bytes above the entropy of "
        "the mask and of each byte of the values on its own; headers are counted."
    )
    others = [k for k in found["sizes"][0] if k not in {"set", "dtype", "zeros", "limit", "excise"}]
    yield table(
        ("weights", "zeros", "excise", *others),
        [
            (
                f"{row['set']}, {row['dtype']}", f"{row['zeros']:.0%}",
                *(f"{100 * (row[k] / row['limit'] - 1):+.1f} %" if k in row else ""
                  for k in ("excise", *others)),
            )
            for row in found["sizes"]
        ],
    )  # fmt: skip
    harm = found["damaged"]
    if harm:
        outcomes = ", ".join(f"{count:,} {name}" for name, count in harm["outcomes"].items())
        yield (
            f"{harm['files']:,} files damaged at random: {outcomes}; {harm['crashes']} crashes. At "
            f"most {harm['worst_peak_bytes']:,} bytes were allocated while loading one, and "
            f"{harm['sound_peak_bytes']:,} for a sound one, in which there are tensors of "
            f"{harm['declared_bytes']:,} bytes."
        )


def zeros(found: Any) -> Iterator[str]:
    """Accuracy of one-shot zeros."""
    yield (
        "Zeros in one shot, 512 calibration samples at most, no fine-tuning. Magnitude, Wanda and "
        "SparseGPT with the same share in every layer, as published; excise's default is ADMM "
        "toward the dense model's outputs. Right answers in %; of stories260k the perplexity per "
        "token, of minilm Spearman's correlation, of dncnn dB."
    )
    methods = ("magnitude", "wanda", "sparsegpt", "excise")
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in found:
        key = (row["network"], row["pattern"], row["asked"], row["dense"], row["limit"])
        groups.setdefault(key, {})[row["method"]] = row
    yield table(
        ("network", "zeros", "examples", "dense", *methods),
        [
            (
                name, pattern if pattern != "unstructured" else f"{asked:.0%}", limit or "all",
                f"{dense:.4g}", *(f"{rows[m]['metric']:.4g}" if m in rows else "" for m in methods),
            )
            for (name, pattern, asked, dense, limit), rows in groups.items()
        ],
    )  # fmt: skip


SECTIONS: dict[str, tuple[str, str | None, Callable[[Any], Iterator[str]]]] = {
    "zoo.py": ("Zero-effort coverage", None, coverage),
    "laws.py": ("Laws", "laws.json", laws),
    "tracing.py": ("Time and memory of tracing", "tracing.json", tracing),
    "real.py": ("Trained networks, cut in half", "real.json", real),
    "oneshot.py": ("Accuracy after one cut", "oneshot.json", oneshot),
    "calibrating.py": ("What calibration costs", "calibrating.json", calibrating),
    "shrink.py": ("Masked networks beside other tools", "shrink.json", shrink),
    "shrink_real.py": ("Masked trained networks", "shrink_real.json", shrink_real),
    "packed.py": ("Zeros in files", "packed.json", packed),
    "zeros.py": ("Zeros in one shot", "zeros.json", zeros),
    "seed.py": ("Half of every convolution masked, end to end", "seed.json", page_sparse.seed),
    "engines.py": ("Whole networks with zeros", "engines.json", page_sparse.engines),
    "kernels.py": ("Kernels on nonzeros", "kernels.json", page_sparse.kernels),
    "budget.py": ("A speed that was asked for", "budget.json", budget),
}


def main() -> None:
    """Lay out every section that has results."""
    parts = [HEAD.rstrip()]
    for script, (title, file, section) in SECTIONS.items():
        if file is not None and not (RESULTS / file).exists():
            continue
        found = None if file is None else json.loads((RESULTS / file).read_text("utf-8"))
        parts += [f"## {title}: `benchmarks/{script}`", *section(found)]
    PAGE.write_text("\n\n".join(parts) + "\n", "utf-8")
    print(f"{PAGE.name}: {len(parts)} paragraphs")


if __name__ == "__main__":
    main()
