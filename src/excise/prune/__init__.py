"""The one-liner: trace, score, plan, cut, prove, refit, measure."""

from excise.prune.prune import prune
from excise.prune.pruned import Pruned, Rival

__all__ = ["Pruned", "Rival", "prune"]
