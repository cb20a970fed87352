"""All faults."""

from __future__ import annotations

from tests.faults import graphs, kernels, narrow, quantizers, runtime, texts
from tests.faults.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *quantizers.FAULTS,
    *graphs.FAULTS,
    *kernels.FAULTS,
    *runtime.FAULTS,
    *texts.FAULTS,
    *narrow.FAULTS,
)
