"""Number formats of quantized values: what levels there are, how levels are rounded to, and how they lie in bytes.

A stored value times its scale is the number it stands for: `value = (level - zero) * scale`. A format knows the levels
alone. Sources: OCP Microscaling Formats (MX) v1.0 for e4m3, e2m1 and e8m0; Ma et al., "The Era of 1-bit LLMs" (2024)
for ternary.
"""

from __future__ import annotations

from collections.abc import Mapping

from optcc.ir.formats.fields import pack_fields, unpack_fields
from optcc.ir.formats.floats import E2M1, E4M3
from optcc.ir.formats.integers import IntegerFormat
from optcc.ir.formats.protocol import NumberFormat
from optcc.ir.formats.scales import SCALES, ScaleFormat, decode_scale

__all__ = [
    "FORMATS",
    "SCALES",
    "IntegerFormat",
    "NumberFormat",
    "ScaleFormat",
    "decode_scale",
    "find_format",
    "pack_fields",
    "unpack_fields",
]

_ALL: tuple[NumberFormat, ...] = (
    IntegerFormat("int8", bits=8, lowest=-128, highest=127),
    IntegerFormat("int4", bits=4, lowest=-8, highest=7),
    IntegerFormat("int3", bits=3, lowest=-4, highest=3),
    IntegerFormat("ternary", bits=2, lowest=-1, highest=1),
    E4M3(),
    E2M1(),
)

FORMATS: Mapping[str, NumberFormat] = {f.name: f for f in _ALL}
"""Every format by the name that schemes and operators use."""


def find_format(name: str) -> NumberFormat:
    """A format by name. Raises ValueError with the known names."""
    if name not in FORMATS:
        raise ValueError(f"there is no number format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]
