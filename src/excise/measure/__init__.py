"""What a model costs: parameters, MACs, bytes in a file, bytes in memory, milliseconds."""

from excise.measure.bytes import file_bytes, memory_bytes
from excise.measure.latency import Latency, latency
from excise.measure.macs import macs
from excise.measure.measurement import Measurement, everything
from excise.measure.params import params
from excise.measure.peak import peak_memory
from excise.measure.speedup import Speedup, speedup

__all__ = [
    "Latency",
    "Measurement",
    "Speedup",
    "everything",
    "file_bytes",
    "latency",
    "macs",
    "memory_bytes",
    "params",
    "peak_memory",
    "speedup",
]
