"""Everything that can be refused before a weight is read: all problems at once, each with code, place and advice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from optcc.accuracy.documents import BUILT_IN
from optcc.backends.protocol import Backend
from optcc.compile.plan import Plan
from optcc.errors import BackendUnavailable, BadCheckData, OptccError, UnsupportedOp, nearest
from optcc.frontend import ModelSource
from optcc.frontend.tokenizer import has_chat_template, has_tokenizer
from optcc.ir.module import Module, source_of
from optcc.pm.context import Context
from optcc.pm.passes import Pass
from optcc.quant.kv import KvPass
from optcc.quant.weight_pass import PackingPass
from optcc.recipe import Recipe


def backend_problems(backend: Backend) -> list[OptccError]:
    """Whether the backend can't be used on this machine."""
    found = backend.probe()
    if found.ok:
        return []
    return [
        BackendUnavailable(f"the backend {backend.name} can't be used: {found.reason}", hint=found.install)
    ]


def recipe_problems(recipe: Recipe, plan: Plan) -> list[OptccError]:
    """What is wrong whatever the model: schemes and data that aren't there.

    Args:
        recipe: resolved.
        plan: its passes.
    """
    found: list[OptccError] = []
    for step in plan.stages["quantize"]:
        if isinstance(step, PackingPass):
            _collect(found, step, lambda s=step: s.schemes(recipe.base))  # type: ignore[misc]
        if isinstance(step, KvPass):
            _collect(found, step, step.form)
    learns = any(step.calibrates for step in plan.pipeline)
    for key, names, used in (
        ("check.data", recipe.check.data, recipe.check.enabled),
        ("calibrate.data", recipe.calibrate.data, learns),
    ):
        found += [
            BadCheckData(
                f"there is no text {name!r}",
                where=f"{key} of {recipe.name}",
                hint=f"a file relative to {recipe.base}, or {nearest(name, BUILT_IN)}",
            )
            for name in (names if used else ())
            if name not in BUILT_IN and not (recipe.base / name).is_file()
        ]
    return found


def module_problems(
    module: Module, backend: Backend, quantize: Sequence[Pass], base: Path
) -> list[OptccError]:
    """What of a canonical module can't be quantized as asked, or run by the backend.

    Args:
        module: canonical.
        backend: what will take it.
        quantize: the passes of the quantize stage.
        base: where relative scheme paths start.

    Returns:
        UnsupportedOp: one for every operator the backend refuses and reason, with the source lines.
        GroupSize, BadOption: weights a group doesn't divide, names that match none.
        UnknownScheme: no such scheme.
        PreconditionFailed: a quantized KV cache for a model without attention.
    """
    problems: list[OptccError] = []
    taken: set[str] = set()

    def select(step: PackingPass) -> None:
        taken.update(s.name for s in step.select(module, base, taken))

    for step in quantize:
        if isinstance(step, PackingPass):
            _collect(problems, step, lambda s=step: select(s))  # type: ignore[misc]
    caches = [step for step in quantize if isinstance(step, KvPass)]
    changed = module.clone() if caches else module
    for cache in caches:
        _collect(problems, cache, lambda s=cache: s.run(changed, Context(base=base)))  # type: ignore[misc]
    return problems + unsupported(changed, backend)


def _collect(problems: list[OptccError], step: Pass, work: Callable[[], object]) -> None:
    """Do what may fail; an error that names no place is the pass's."""
    try:
        work()
    except OptccError as error:
        error.where = error.where or str(step)
        problems.append(error)


def unsupported(module: Module, backend: Backend) -> list[OptccError]:
    """An error for every operator that the backend refuses and reason, with the places in the user's source."""
    found: dict[tuple[str, str], list[str]] = {}
    for node in module.nodes():
        if node.op != "call_function":
            continue
        reason = backend.supports(node, module)
        if reason:
            found.setdefault((str(node.target), reason), []).append(source_of(node) or f"%{node.name}")
    advice = "write this with other operators, or compile for the backend `reference`, which runs everything"
    return [
        UnsupportedOp(
            f"the backend {backend.name} can't run {target} ({reason}): {_times(len(places))}",
            where=", ".join(list(dict.fromkeys(places))[:8]),
            hint=advice,
        )
        for (target, reason), places in found.items()
    ]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def remarks(recipe: Recipe, source: ModelSource, kind: str, max_context: int | None) -> list[str]:
    """What will be done otherwise than one might think, though it can be done.

    Args:
        recipe: resolved.
        source: the model.
        kind: `decoder` or `function`.
        max_context: longest text of a decoder, in tokens.
    """
    notes: list[str] = []
    if source.shape_only:
        notes.append("there are no weights: sizes are known, nothing can be compiled")
    if kind != "decoder" or source.directory is None:
        return notes
    texts = recipe.check.data if recipe.check.enabled else ()
    if not has_tokenizer(source.directory):
        if texts:
            notes.append("the model has no tokenizer: random tokens will be compared instead of text")
    elif "chat" in texts and not has_chat_template(source.directory):
        notes.append("the model has no chat template: conversations will be read as plain text")
    if texts and max_context is not None and recipe.check.window > max_context:
        notes.append(
            f"windows of {recipe.check.window} tokens exceed the context: they will have {max_context}"
        )
    return notes
