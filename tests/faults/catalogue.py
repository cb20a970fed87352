"""All faults."""

from __future__ import annotations

from tests.faults import graphs, kernels, quantizers, runtime, texts
from tests.faults.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *quantizers.FAULTS,
    *graphs.FAULTS,
    *kernels.FAULTS,
    *runtime.FAULTS,
    *texts.FAULTS,
)
