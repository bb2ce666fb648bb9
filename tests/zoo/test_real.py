"""Networks that other people trained: cut to half their MACs, proved, saved, loaded elsewhere."""

from __future__ import annotations

import pytest
import real

pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(real.folder() is None, reason="no trained networks: set EXCISE_DATA"),
    # the loader of the networks, the packages it reads them with, and what they warn about
    pytest.mark.filterwarnings("default"),
]


@pytest.mark.parametrize("name", real.LIMITS)
def test_half_is_cut_proved_saved_and_loaded_elsewhere(name: str) -> None:
    try:
        row = real.attempt(name)
    except ImportError as error:
        pytest.skip(str(error))
    before, after = row["macs"]
    assert row["verdict"] in {"exact", "exact-with-mixing"}
    assert row["worst"] < 1e-9
    assert real.KEEP_MACS - row["largest_step"] < after / before <= real.KEEP_MACS
    assert row["params"][1] < row["params"][0]
    assert row["file_bytes"][1] < row["file_bytes"][0]
    assert row["cuttable_share"] > 0.4
    assert row["reload_worst"] < 1e-5  # the weights are equal, the outputs to rounding
