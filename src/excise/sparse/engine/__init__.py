"""Engine: a whole network in inference as a list of kernel calls, for `torch.compile`."""

from excise.sparse.engine.backend import excise

__all__ = ["excise"]
