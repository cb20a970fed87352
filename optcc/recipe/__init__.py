"""Recipes: the YAML a user writes, read with line numbers into typed, frozen facts. Imports no torch."""

from optcc.recipe.dump import dump_recipe
from optcc.recipe.load import list_presets, load_recipe
from optcc.recipe.schema import (
    METRICS,
    STAGES,
    CalibrateOptions,
    CheckOptions,
    ModelOptions,
    PassEntry,
    Recipe,
    SpeedLimit,
    TargetOptions,
)
from optcc.recipe.schemes import ActivationFormat, Scheme, WeightFormat, list_schemes, load_scheme
from optcc.recipe.source import Where

__all__ = [
    "METRICS",
    "STAGES",
    "ActivationFormat",
    "CalibrateOptions",
    "CheckOptions",
    "ModelOptions",
    "PassEntry",
    "Recipe",
    "Scheme",
    "SpeedLimit",
    "TargetOptions",
    "WeightFormat",
    "Where",
    "dump_recipe",
    "list_presets",
    "list_schemes",
    "load_recipe",
    "load_scheme",
]
