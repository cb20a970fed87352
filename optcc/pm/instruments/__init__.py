"""Instruments watch a pipeline; passes never know they are there."""

from optcc.pm.instruments.check import Check
from optcc.pm.instruments.diff import Diff
from optcc.pm.instruments.dump import Dump
from optcc.pm.instruments.protocol import Instrument
from optcc.pm.instruments.record import PassRecord, Record

__all__ = ["Check", "Diff", "Dump", "Instrument", "PassRecord", "Record"]
