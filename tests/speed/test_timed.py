"""The search for a speed, on a machine whose times are known."""

from __future__ import annotations

import pytest

import excise
from excise.budget.choose import Options
from excise.budget.clock import clock_of
from excise.budget.speed import Asked, Attempt, timed
from excise.errors import UnreachableTargetError
from tests.speed.staircase import BLOCK, machine, rows, traced


def _search(
    target: float, *, name: str = "speedup", overhead: float = 0.0, power: float = 1.0
) -> list[Attempt]:
    model, graph = traced()
    scores = excise.scores.magnitude(model, graph)
    return timed(
        graph, scores, Asked(name, target), Options(min_keep=1), rows=rows(graph),
        measure=machine(graph, overhead, power), dense_ms=100.0,
    )  # fmt: skip


@pytest.mark.parametrize("target", [1.2, 1.5, 2.0, 3.0])
@pytest.mark.parametrize(("overhead", "power"), [(0.0, 1.0), (0.1, 1.0), (0.0, 0.7), (0.0, 1.4)])
def test_the_machine_decides_not_the_table(target: float, overhead: float, power: float) -> None:
    found = _search(target, overhead=overhead, power=power)
    assert abs(found[-1].found.ratio / target - 1) <= 0.03


def test_what_the_table_does_not_know_takes_a_second_attempt() -> None:
    found = _search(1.3, power=1.4)
    assert len(found) > 1
    assert found[0].found.ratio > 1.03 * 1.3
    assert found[-1].aim < found[0].aim


def test_widths_stand_at_the_foot_of_a_step() -> None:
    """Nobody asked for multiples of 8: it is the time that says so."""
    plan = _search(1.6)[-1].plan
    cut = {name: plan.sizes[name] - len(units) for name, units in plan.removed.items()}
    assert cut
    assert all(left % BLOCK == 0 for left in cut.values())


def test_milliseconds() -> None:
    found = _search(70.0, name="latency_ms")
    assert found[-1].found.after.median_ms == pytest.approx(70.0, rel=0.03)


def test_out_of_reach_says_what_was_measured() -> None:
    with pytest.raises(UnreachableTargetError) as caught:
        _search(50.0, overhead=0.3)
    error = caught.value
    assert (error.option, error.target) == ("speedup", 50.0)
    assert 2.0 < error.reachable < 1 / 0.3
    assert "measured" in str(error)
    assert f"{error.reachable:.4g}" in str(error)


def test_rows_are_read_by_a_graph_with_more_pins() -> None:
    model, graph = traced()
    again = excise.trace(model, *graph.stage.args)
    assert clock_of(again, rows(graph), 100.0).total({}) == pytest.approx(
        clock_of(graph, rows(graph), 100.0).total({})
    )


def test_what_no_row_explains_stays() -> None:
    _, graph = traced()
    known = rows(graph)
    clock = clock_of(graph, known, 100.0)
    least = {graph.axes[g.name]: 1 for g in graph.groups}
    assert clock.total({}) == pytest.approx(100.0)
    assert clock.total(least) > clock.base > 0
    alone = clock_of(graph, [], 7.0)
    assert alone.total(least) == alone.total({}) == 7.0
