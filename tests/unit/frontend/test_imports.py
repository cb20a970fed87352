"""transformers' losses come without scipy, and work."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from optcc.frontend.imports import defer_scipy
import transformers.utils
before = transformers.utils.is_scipy_available
defer_scipy()
assert "scipy.optimize" not in sys.modules
assert transformers.utils.is_scipy_available is before
from transformers.loss import loss_for_object_detection as loss
rows, columns = loss.linear_sum_assignment([[3, 1], [1, 3]])
assert list(columns) == [1, 0]
assert "scipy.optimize" in sys.modules
import transformers.modeling_utils
defer_scipy()
"""


def test_scipy_is_imported_when_it_is_used() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
