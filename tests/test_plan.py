"""Plans: plain data that says what goes, can be checked, and travels as JSON."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.errors import PlanFormatError, StalePlanError
from excise.plan import AttributeCut, Plan, TensorCut, mask

PLAN = Plan(
    removed={"a": (0, 2), "b": (1,)},
    sizes={"a": 3, "b": 2, "c": 2},
    tensors=(
        TensorCut("w", (3, 4), ("a", "(b c)")),
        TensorCut("v", (5,), ("(a + b)",)),
        TensorCut("u", (10, 1), ("(2 (a + b))", "1")),
    ),
    attributes=(AttributeCut("layer", "width", 3, 1),),
    shapes={"w": (3, 4), "v": (5,), "u": (10, 1), "x": (7,)},
)


@pytest.mark.parametrize(
    ("notation", "kept"),
    [
        ("a", [1]),
        ("1", [0]),
        ("3", [0, 1, 2]),
        ("(b c)", [0, 1]),
        ("(c b)", [0, 2]),
        ("(a + b)", [1, 3]),
        ("(b + a)", [0, 3]),
        ("(2 (a + b))", [1, 3, 6, 8]),
        ("((a + b) c)", [2, 3, 6, 7]),
        ("(a b c)", [4, 5]),
    ],
)
def test_which_indices_stay(notation: str, kept: list[int]) -> None:
    """Products in row-major order, sums end to end."""
    assert PLAN.indices(notation).tolist() == kept


def test_kept_is_one_boolean_per_unit() -> None:
    assert PLAN.kept("a").tolist() == [False, True, False]
    assert PLAN.kept("c").tolist() == [True, True]


def test_shapes_after_the_cut() -> None:
    assert [PLAN.shape_after(cut) for cut in PLAN.tensors] == [(1, 2), (2,), (4, 1)]


def test_json_round_trip() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN
    raw = json.loads(PLAN.to_json())
    assert raw["removed"] == {"a": [0, 2], "b": [1]}
    assert raw["version"] == 1


def test_new_biases_need_version_2() -> None:
    wider = dataclasses.replace(PLAN, biases=("layer",))
    assert json.loads(wider.to_json())["version"] == 2
    assert Plan.from_json(wider.to_json()) == wider


def test_it_pickles() -> None:
    assert pickle.loads(pickle.dumps(PLAN)) == PLAN  # noqa: S301 - our own bytes


def test_it_prints_what_goes() -> None:
    assert str(PLAN) == "a: 3 -> 1 units\nb: 2 -> 1 units"
    assert str(Plan({}, {}, ())) == "nothing is removed"


def test_it_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAN.removed = {}  # type: ignore[misc]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Axes with some units removed, and tensors over products and sums of them."""
    sizes = draw(st.dictionaries(st.sampled_from("abcd"), st.integers(2, 5), min_size=1))
    names = sorted(sizes)
    removed = {
        name: tuple(
            sorted(draw(st.sets(st.integers(0, sizes[name] - 1), max_size=sizes[name] - 1)))
        )
        for name in names
    }
    word = st.sampled_from(names)
    term = st.recursive(
        word,
        lambda inner: st.one_of(
            st.lists(inner, min_size=2, max_size=3).map(lambda w: f"({' '.join(w)})"),
            st.lists(inner, min_size=2, max_size=3).map(lambda w: f"({' + '.join(w)})"),
        ),
        max_leaves=4,
    )
    dims = draw(st.lists(term, min_size=1, max_size=3))
    bare = Plan({}, sizes, ())
    shape = tuple(len(mask(dim, bare)) for dim in dims)
    cut = TensorCut("t", shape, tuple(dims))
    return Plan(removed, sizes, (cut,), (), {"t": shape})


@given(plans())
def test_every_plan_survives_json(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan


@given(plans())
def test_lengths_by_arithmetic_are_those_of_the_masks(plan: Plan) -> None:
    """`check` multiplies and adds; `mask` lays the indices out: they have to agree."""
    plan.check()
    (cut,) = plan.tensors
    for dim, length in zip(cut.dims, cut.shape, strict=True):
        assert len(mask(dim, plan)) == length
        wrong = dataclasses.replace(plan, tensors=(TensorCut("t", (length + 1,), (dim,)),))
        with pytest.raises(PlanFormatError, match="dimensions say"):
            wrong.check()


@given(plans())
def test_what_stays_and_what_goes_are_all(plan: Plan) -> None:
    for name, size in plan.sizes.items():
        gone = list(plan.removed.get(name, ()))
        both = np.concatenate([plan.indices(name), gone])
        assert sorted(both.tolist()) == list(range(size))


def test_two_cuts_as_one() -> None:
    """Units are counted in the first model; tensors, numbers and shapes too."""
    later = Plan(
        removed={"c": (0,)},
        sizes={"a": 1, "b": 1, "c": 2},
        tensors=(TensorCut("w", (1, 2), ("a", "(b c)")), TensorCut("x", (4,), ("(2 c)",))),
        attributes=(AttributeCut("layer", "width", 1, 3), AttributeCut("layer", "other", 4, 2)),
        shapes={"w": (1, 2), "v": (2,), "u": (4, 1), "x": (4,)},
    )
    first = dataclasses.replace(PLAN, shapes={**PLAN.shapes, "x": (4,)})
    both = first.then(later)
    both.check()
    assert both.removed == {"a": (0, 2), "b": (1,), "c": (0,)}
    assert {c.name: both.shape_after(c) for c in both.tensors} == {
        "w": (1, 1), "v": (2,), "u": (4, 1), "x": (2,)
    }  # fmt: skip
    assert both.attributes == (AttributeCut("layer", "other", 4, 2),)
    assert both.shapes == first.shapes
    assert first.then(Plan({}, {}, ())) == first


def test_units_of_a_later_cut_are_found_in_the_first_model() -> None:
    first = Plan({"a": (0, 2)}, {"a": 5}, (TensorCut("w", (5,), ("a",)),), (), {"w": (5,)})
    later = Plan({"a": (1,)}, {"a": 3}, (TensorCut("w", (3,), ("a",)),), (), {"w": (3,)})
    assert first.then(later).removed == {"a": (0, 2, 3)}
    with pytest.raises(StalePlanError, match="w is of shape"):
        later.then(later)


def test_cuts_that_name_their_axes_differently_are_refused() -> None:
    first = Plan({"a": (0,)}, {"a": 3}, (TensorCut("w", (3,), ("a",)),), (), {"w": (3,)})
    later = Plan({"b": (1,)}, {"b": 2}, (TensorCut("w", (2,), ("b",)),), (), {"w": (2,)})
    with pytest.raises(StalePlanError, match="along others"):
        first.then(later)
