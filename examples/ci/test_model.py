"""The same as the workflow, in pytest. `optcc_check` is a fixture that comes with optcc."""

from optcc.testing import Check


def test_model(optcc_check: Check) -> None:
    """The compiled model is near its original, and no worse than it was."""
    optcc_check("build/model", "models/mine", kl=0.02, baseline="baseline.json")
