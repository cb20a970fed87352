"""optcc: a model optimization compiler that shows its proof.

The public Python interface is small on purpose: `optcc.pm` for passes and pipelines, `optcc.ir` for graphs,
`optcc.compile.compile_model` for a whole compile, `optcc.runtime` for running artifacts. Importing this package
imports neither torch nor any vendor's library.
"""

__version__ = "0.1.0"
