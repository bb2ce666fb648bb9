"""How hard the tests search: one profile for every change, one for the night."""

from __future__ import annotations

import os

import torch
from hypothesis import HealthCheck, settings

from tests.pace import hands, paced

__all__ = ["hands", "paced"]

# On two shared cores a draw can be slow through no fault of the strategy.
_PATIENT = [HealthCheck.too_slow]

settings.register_profile(
    "ci", max_examples=100, deadline=None, derandomize=True, suppress_health_check=_PATIENT
)
settings.register_profile(
    "nightly", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=_PATIENT
)
settings.load_profile(os.environ.get("EXCISE_PROFILE", "ci"))

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # each worker is a process already; more threads only fight
