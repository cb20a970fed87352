"""Quantized checkpoints of other tools, read as they are: no weight is rounded a second time.

`read_quantized` is told a directory's configuration and tensors and gives the same tensors back, where every quantized
weight has become one WeightSource with a `packed` form in optcc's own layout. One file per `quant_method`.
"""

from optcc.frontend.quantized.read import METHODS, find_quantized, read_quantized, refuse_quantized
from optcc.frontend.quantized.store import mapped_original

__all__ = ["METHODS", "find_quantized", "mapped_original", "read_quantized", "refuse_quantized"]
