"""Which pass of a pipeline broke a model."""

from optcc.compile.bisect.flow import BisectResult, bisect

__all__ = ["BisectResult", "bisect"]
