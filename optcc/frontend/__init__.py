"""The front end: what the user has, as a graph.

`resolve` finds and checks a model, `capture` turns it into a graph, `load_original` gives the model to
compare with, `known_inputs` the inputs that came with it, `export_tokenizer` writes its tokenizer.
"""

from optcc.frontend.capture import capture
from optcc.frontend.examples import KnownInputs, known_inputs
from optcc.frontend.original import load_original
from optcc.frontend.program import CapturedProgram, DecoderSpec, LoadOptions, ModelSource, WeightSource
from optcc.frontend.resolve import resolve, resolve_shape
from optcc.frontend.tokenizer import SpecialTokens, export_tokenizer, special_tokens

__all__ = [
    "CapturedProgram",
    "DecoderSpec",
    "KnownInputs",
    "LoadOptions",
    "ModelSource",
    "SpecialTokens",
    "WeightSource",
    "capture",
    "export_tokenizer",
    "known_inputs",
    "load_original",
    "resolve",
    "resolve_shape",
    "special_tokens",
]
