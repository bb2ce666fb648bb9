"""Every rule is held against what its operation does, and no rule goes untested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from excise.axes import unify
from excise.rules import POINTWISE, RULES, Scope
from excise.rules.space import _names
from excise.rules.table import RANDOM
from excise.trace import Op
from tests.rules.cases import CASES
from tests.rules.oracle import Case, canonical, complaints, read, renamed

# Torch warns of its own beta functions, and of variances over a single unit that is left.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

_SAME = {  # one case and the operation in it -> other names of the same signature
    ("convolution-conv2d_grouped", "convolution"): "_convolution convolution_overrideable",
    ("index-embedding_bag", "_embedding_bag_forward_only"): "_embedding_bag embedding_bag",
    ("space-grid_sample", "grid_sampler_2d"): "grid_sampler _grid_sampler_2d_cpu_fallback",
    ("index-index_put", "index_put_"): "_index_put_impl",
    ("norm-native_batch_norm", "native_batch_norm"): (
        "_native_batch_norm_legit batch_norm cudnn_batch_norm miopen_batch_norm"
    ),
    ("norm-layer_norm", "native_layer_norm"): "layer_norm rms_norm",
    ("norm-softmax", "_softmax"): "softmax",
    ("norm-log_softmax", "_log_softmax"): "log_softmax",
    ("norm-weight_norm", "_weight_norm_interface"): "_weight_norm",
    ("shape-view_merge", "view"): "_unsafe_view _reshape_alias reshape flatten unflatten",
    ("shape-t", "t"): "adjoint mT",
    ("shape-transpose", "transpose"): "swapaxes",
    ("shape-expand", "expand"): "broadcast_to",
    ("shape-repeat", "repeat"): "tile",
    ("shape-diagonal", "diagonal"): "movedim",
    ("part-cat", "cat"): "concat concatenate",
    ("part-split", "split_with_sizes"): "chunk tensor_split unsafe_chunk",
    ("part-pad_after", "constant_pad_nd"): "pad",
    ("contract-cdist", "_cdist_forward"): "cdist",
    ("reduce-mean_along_one", "mean"): "nanmean",
    ("pointwise-relu", "relu"): " ".join(sorted(POINTWISE - RANDOM)),
    ("pointwise-random_rand_like", "rand_like"): " ".join(sorted(POINTWISE & RANDOM)),
    ("part-pad_reflecting", "reflection_pad1d"): " ".join(_names("1d")),
    ("space-avg_pool2d", "avg_pool2d"): " ".join(_names("2d")),
    ("space-avg_pool3d", "avg_pool3d"): " ".join(_names("3d")),
}
VARIANTS = [(case, old, new) for (case, old), names in _SAME.items() for new in names.split()]


@pytest.mark.parametrize("name", CASES)
def test_rule_says_what_the_operation_does(name: str) -> None:
    assert not list(complaints(read(CASES[name])))


@pytest.mark.parametrize(("case", "old", "new"), VARIANTS)
def test_rule_holds_under_another_name(case: str, old: str, new: str) -> None:
    """What is claimed is true: the case itself was held against the operation."""
    assert renamed(CASES[case], old, new).claim() == canonical(CASES[case].claim)


def _plain(name: str) -> str:
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def exercised(cases: dict[str, Case]) -> Iterator[str]:
    """The operations that cases record, and those that stand under another name."""
    for case in cases.values():
        for name in read(case).names:
            yield from (name, _plain(name))
    yield from (new for case, _, new in VARIANTS if case in cases)


def test_every_rule_has_a_case() -> None:
    ours = {name for name in {*RULES, *POINTWISE} if "::" not in name}  # else a user's own
    assert sorted(ours - set(exercised(CASES))) == []


def test_every_rule_is_an_operation_of_torch() -> None:
    whole = {"rnn"}  # the recorder's name for two operations
    ours = {name for name in {*RULES, *POINTWISE} if "::" not in name}
    assert [n for n in ours - whole if not hasattr(torch.ops.aten, n)] == []


def _never_relates(s: Scope, op: Op) -> None:
    """As if nothing were known."""
    for out in op.outs:
        s.put(out, [s.free(n) for n in s.shape(out)])


def _crosses(s: Scope, op: Op) -> None:
    """As if a transpose were none."""
    s.put(op.outs[0], s.get(op.args[0]))


def _summed_wrongly(s: Scope, op: Op) -> None:
    """As if `(a k) @ (k b)` were `(k a) @ (k b)`, for square matrices."""
    x, y = s.get(op.args[0]), s.get(op.args[1])
    unify(x[0], y[0])
    s.put(op.outs[0], [x[1], y[1]])


def _unmixed(s: Scope, op: Op) -> None:
    """As if softmax looked at one unit at a time."""
    s.put(op.outs[0], s.get(op.args[0]))


SQUARE = replace(CASES["contract-mm"], given=(CASES["shape-t"].given[0]._replace(
    draw=lambda: torch.randn(4, 4, dtype=torch.float64)),) * 2)  # fmt: skip


@pytest.mark.parametrize(
    ("case", "name", "wrong"),
    [
        (CASES["pointwise-add_of_two"], "add", _never_relates),
        (replace(CASES["shape-transpose"], given=SQUARE.given[:1],
                 function=lambda x: x.transpose(0, 1)), "transpose", _crosses),
        (SQUARE, "mm", _summed_wrongly),
        (CASES["norm-softmax"], "_softmax", _unmixed),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_seen(
    monkeypatch: pytest.MonkeyPatch, case: Case, name: str, wrong: Callable[[Scope, Op], None]
) -> None:
    """Meta-test: what a wrong rule claims is refuted by the operation, whatever is stated."""
    monkeypatch.setitem(RULES, name, wrong)
    found = read(case)
    agreed = replace(found, case=replace(case, claim=found.claim()))
    assert list(complaints(agreed))


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("contract-mm", "a k, j b -> a b"),
        ("norm-layer_norm", "n t c, c, c -> n t c"),
        ("part-cat", "n a, n b -> n C"),
        ("index-gather", "n c, n T -> n T"),
    ],
)
def test_a_wrong_claim_is_seen(name: str, claim: str) -> None:
    """Meta-test: what a case states is compared word by word."""
    assert any("stated" in text for text in complaints(read(replace(CASES[name], claim=claim))))
