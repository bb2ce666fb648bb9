"""Calibration: what a model's operations see on a user's own data."""

from excise.calibration.call import Call
from excise.calibration.consumer import Consumer, by_op, columns_of, consumers
from excise.calibration.data import Batch, Share, batches, share
from excise.calibration.lane import Lanes, Visit
from excise.calibration.moment import Moments, thinned
from excise.calibration.path import Follower
from excise.calibration.progress import shown, told
from excise.calibration.watch import watch

__all__ = [
    "Batch",
    "Call",
    "Consumer",
    "Follower",
    "Lanes",
    "Moments",
    "Share",
    "Visit",
    "batches",
    "by_op",
    "columns_of",
    "consumers",
    "share",
    "shown",
    "thinned",
    "told",
    "watch",
]
