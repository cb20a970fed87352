from __future__ import annotations

import pytest

from optcc.backends.protocol import Availability
from optcc.backends.registry import backend_names, load_backend
from optcc.errors import BackendUnavailable


def test_every_folder_is_a_backend() -> None:
    assert {"onnxruntime", "reference"} <= set(backend_names())
    for name in backend_names():
        backend = load_backend(name)
        assert backend.name == name
        found = backend.probe()
        assert isinstance(found, Availability)
        assert found.ok or found.install


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(BackendUnavailable) as caught:
        load_backend("onnxruntim")
    assert caught.value.code == "E501"
    assert "onnxruntime" in str(caught.value.hint)
