"""The `optcc::` operators: each has a schema, a fake kernel (types only) and a plain torch reference.

Because every operator has a reference, any Module at any point of a pipeline runs on a CPU: that is what lets optcc ask
"is it still right?" after every pass, whatever the backend. The references are written to be read, not to be fast.

Importing this package registers the operators as `torch.ops.optcc.*`.
"""

from optcc.ir.ops import activation, attention, norm, quantized, rope

__all__ = ["activation", "attention", "norm", "quantized", "rope"]
