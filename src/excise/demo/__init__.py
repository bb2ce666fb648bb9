"""The main job on an embedded default: train, mask, cut, and check each claim."""

from excise.demo.claim import Claim
from excise.demo.story import Outcome, Stage, run

__all__ = ["Claim", "Outcome", "Stage", "run"]
