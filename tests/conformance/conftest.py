"""Both ways a graph is lowered for ONNX Runtime: with our native operators, and with its own alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from optcc.backends.onnxruntime import native


@pytest.fixture(scope="module", params=["native", "plain"])
def lowering(request: pytest.FixtureRequest) -> Iterator[str]:
    """Whether what is compiled in this module may use native operators."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain":
            patch.setenv("OPTCC_NATIVE", "off")
        elif not native.status().ok:
            pytest.skip(str(native.status()))
        yield request.param
