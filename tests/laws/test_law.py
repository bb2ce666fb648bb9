"""Every law, on random cuts of random networks: 100 for each change, 2,000 in the night."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, seed, settings

from tests.laws import (
    test_attribute,
    test_file,
    test_place,
    test_plan,
    test_silence,
    test_twice,
    test_untouched,
)
from tests.laws.cut import Cut, Request, cut, requests

LAWS: dict[str, Callable[[Cut], None]] = {
    "removed is silenced": test_silence.holds,
    "attributes agree with tensors": test_attribute.holds,
    "the original is untouched": test_untouched.holds,
    "a plan can be written down": test_plan.written,
    "a plan is spent": test_plan.spent,
    "what is saved is loaded": test_file.holds,
    "two cuts are one": test_twice.holds,
    "a cut in place is the same": test_place.holds,
}
SHARES = 10


def show(found: Cut) -> None:
    """Show a cut to all laws; the error of a broken one says which."""
    for law, holds in LAWS.items():
        try:
            holds(found)
        except Exception as error:  # noqa: PERF203 - each law on its own
            raise AssertionError(f"{law}: {error}\n{found}") from error


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # torch's own slow path
@pytest.mark.parametrize("share", range(SHARES))
def test_laws_hold(share: int) -> None:
    """One drawn cut is shown to all laws, as making it costs more than any of them."""
    notes: Counter[str] = Counter()

    @settings(max_examples=max(1, settings().max_examples // SHARES), database=None)
    @given(requests())
    def shown(request: Request) -> None:
        found = cut(request)
        show(found)
        notes.update([*found.notes, "cut" if found.plan.tensors else "nothing to cut"])

    (seed(share)(shown) if settings().derandomize else shown)()  # other ones each night
    assert notes["cut"] > notes["nothing to cut"]
    assert notes["two cuts compared"]


@pytest.mark.parametrize("law", LAWS)
def test_a_broken_law_is_named(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta-test: no law is left out, and its name is in the error."""

    def broken(_found: Cut) -> None:
        raise ValueError

    monkeypatch.setitem(LAWS, law, broken)
    with pytest.raises(AssertionError, match=law):
        show(cut(test_silence.PLAIN))
