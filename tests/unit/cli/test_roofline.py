"""What a report says of speed, as a person reads it."""

from __future__ import annotations

import pytest

from optcc.cli.display import console
from optcc.cli.roofline import print_sentences


def test_sentences_fit_the_terminal_whole(capsys: pytest.CaptureFixture[str]) -> None:
    said = [" ".join(f"word-{i}-of-{n}" for i in range(40)) for n in range(2)] + ["short"]
    screen = console()
    print_sentences(screen, {"sentences": said})
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= screen.width
    assert shown.count("- ") == len(said)
    assert " ".join(shown.replace("- ", "").split()) == " ".join(said)
