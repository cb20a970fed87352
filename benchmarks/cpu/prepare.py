"""Set-up of everything that takes part; what can't be set up is named with its reason, never left out silently."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.cpu.contestants import Contestant, Place, Plan
from benchmarks.cpu.steps import SetUpFailed, Tell, run_steps


def prepare(
    place: Place, plans: Sequence[Plan], wanted: Callable[[str], bool], tell: Tell
) -> tuple[list[Contestant], dict[str, str]]:
    """Make every environment and model that is missing.

    Args:
        wanted: which contestants to make, by name.

    Returns: the contestants that can run, and the reason by name of peer or contestant for those that can't.

    Raises:
        SetUpFailed: the checkpoint or the inputs can't be made, without which nothing can be compared.
    """
    shared = run_steps(place.folder("model"), place.shared_steps(), tell)
    found: list[Contestant] = []
    unavailable: dict[str, str] = {}
    for plan in plans:
        folder = place.folder(plan.peer)
        try:
            environment = run_steps(folder, plan.environment, tell)
        except SetUpFailed as error:
            unavailable[plan.peer] = str(error)
            tell(f"{plan.peer} is not available: {error}")
            continue
        for entry in plan.entries:
            name = entry.contestant.name
            if not wanted(name):
                continue
            try:
                run_steps(folder, entry.steps, tell, environment + shared)
            except SetUpFailed as error:
                unavailable[name] = str(error)
                tell(f"{name} is not available: {error}")
            else:
                found.append(entry.contestant)
    return found, unavailable
