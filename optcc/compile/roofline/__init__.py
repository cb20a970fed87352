"""Why an artifact is (not) fast: every operator's own bytes and operations against what this machine can do.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model" (2009): an operator can't be faster
than its bytes divided by the memory's bandwidth, nor than its operations divided by the processor's rate.
"""

from optcc.compile.roofline.build import LOADS, Load, roofline

__all__ = ["LOADS", "Load", "roofline"]
