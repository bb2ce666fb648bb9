"""Reports: before and after, each number with its unit, as text and as JSON."""

from __future__ import annotations

import json

import pytest

from excise.measure import Latency, Measurement
from excise.report import Report, Row

BEFORE = Measurement(1000, 4_000_000, 5000, 4000, Latency(8.0, 7.5, 9.0, 30, 2, "a CPU"))
AFTER = Measurement(250, 1_000_000, 2000, 1000, Latency(2.0, 1.9, 2.5, 90, 2, "a CPU"))
REPORT = Report(BEFORE, AFTER, {"accuracy [%]": (98.5, 97.0), "energy [J]": (4.0, 1.0)})


def test_the_table_has_every_quantity_with_its_unit() -> None:
    lines = [" ".join(line.split()) for line in REPORT.text().splitlines()]
    for line in (
        "before after kept",
        "parameters 1 k parameters 250 parameters 25.0 %",
        "multiply-adds 4 MMACs 1 MMACs 25.0 %",
        "in a file 5 kB 2 kB 40.0 %",
        "in memory 4 kB 1 kB 25.0 %",
        "latency, median 8 ms 2 ms 25.0 %",
        "latency, quartiles 7.5 ms to 9 ms 1.9 ms to 2.5 ms",
        "accuracy 98.5 % 97 % -1.50 points",
        "energy 4 J 1 J 25.0 %",
    ):
        assert line in lines
    assert "measured over 30 and 90 runs, 2 threads, a CPU" in REPORT.text()
    assert str(REPORT) == REPORT.text()


def test_other_hardware_is_said_for_each_side() -> None:
    other = Measurement(250, 1, 1, 1, Latency(2.0, 1.9, 2.5, 90, 4, "another CPU"))
    text = Report(BEFORE, other).text()
    assert "30 runs, 2 threads, a CPU" in text
    assert "90 runs, 4 threads, another CPU" in text


def test_what_was_not_measured_is_left_out_or_said() -> None:
    text = Report(Measurement(9, None, 9, 9), Measurement(8, None, 8, 8)).text()
    assert "multiply-adds" not in text
    assert "latency" not in text
    half = Report(Measurement(9, None, 9, 9), Measurement(8, 5, 8, 8)).text()
    assert "not measured" in half


def test_what_is_kept_is_a_fraction_of_before() -> None:
    kept = REPORT.kept()
    assert kept["parameters"] == 0.25
    assert kept["in a file"] == 0.4
    assert "nothing" not in Report(BEFORE, AFTER, {"nothing [J]": (0.0, 1.0)}).kept()


def test_json_is_plain_and_complete() -> None:
    data = json.loads(REPORT.to_json())
    assert data == json.loads(json.dumps(REPORT.to_dict()))
    assert data["before"]["latency"]["median_ms"] == 8.0
    assert data["after"]["params"] == 250
    assert data["extra"] == {
        "accuracy [%]": {"before": 98.5, "after": 97.0},
        "energy [J]": {"before": 4.0, "after": 1.0},
    }
    assert data["kept"]["parameters"] == 0.25


def test_nan_is_null_in_json() -> None:
    text = Report(BEFORE, AFTER, {"loss [nats]": (1.0, float("nan"))}).to_json()
    assert json.loads(text)["extra"]["loss [nats]"]["after"] is None


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_asked(width: int) -> None:
    assert max(map(len, REPORT.text(width).splitlines())) <= width


@pytest.mark.parametrize("title", ["accuracy", "accuracy []", "[%]", "accuracy %", ""])
def test_a_row_without_a_unit_is_refused(title: str) -> None:
    with pytest.raises(ValueError, match="unit"):
        Row.named(title, 1, 2)


def test_a_row_knows_its_change() -> None:
    assert Row("a", "ms", 4, 1).change() == "25.0 %"
    assert Row("a", "%", 98.0, 97.5).change() == "-0.50 points"
    assert Row("a", "ms", None, 1).change() == ""
    assert Row("a", "ms", 0, 1).change() == ""
