"""The whole flow: a model and a recipe in, a checked artifact and its report out."""

from optcc.compile.flow import CompileResult, compile_model
from optcc.compile.job import CompileOptions
from optcc.compile.progress import Progress, Silent
from optcc.compile.report import Command

__all__ = ["Command", "CompileOptions", "CompileResult", "Progress", "Silent", "compile_model"]
