"""Any nn.Module: `package.module:factory` or `path/file.py:factory`.

The factory takes no arguments and returns `(module, example_inputs)`, and as a third and fourth element what it knows
besides: `dynamic_dims` and `data`.

`example_inputs` is a dict of tensors by argument name, or a tuple in the order of `forward`. `dynamic_dims` says which
axes vary: `{"pixels": {0: "B"}}`; every other axis is fixed to the example's size. `data` has real inputs, batch after
batch in the form of `example_inputs`: `{"calibration": [...], "check": [...]}`, either of which may be missing; no
batch may be in both.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from optcc.errors import BadFactory, CaptureFailed, OptccError, nearest
from optcc.frontend import facts
from optcc.frontend.digest import files_digest
from optcc.frontend.program import CapturedProgram, Dim, ModelSource

SPLITS = ("calibration", "check")

# torch.export ends its message with the range that the module's own sizes allow.
_LIMIT = re.compile(r"^\s+(\w+) = Dim\('\1', max=(\d+)\)", re.MULTILINE)


@dataclass(frozen=True)
class Made:
    """What a factory returned, checked.

    Attributes:
        module: in evaluation mode.
        example: its inputs by name.
        dims: one name or size per axis of every input.
        data: batches of inputs, by the split they are for; empty where the factory has none.
    """

    module: nn.Module
    example: Mapping[str, Tensor]
    dims: Mapping[str, tuple[Dim, ...]]
    data: Mapping[str, tuple[Mapping[str, Tensor], ...]]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that decides what is compiled, in a fixed order."""
        yield from self.module.state_dict().items()
        for split in ("example", *SPLITS):
            for batch in (self.example,) if split == "example" else self.data.get(split, ()):
                yield from ((f"{split} {name}", value) for name, value in batch.items())


def factory_source(reference: str) -> ModelSource:
    """The source of a factory. Its digest covers the file it lies in, and the weights and data it returns: these may
    come from other files. Raises BadFactory.
    """
    file = inspect.getsourcefile(_find(reference))
    files = (Path(file),) if file else ()
    digest = hashlib.sha256(files_digest(files).encode())
    for name, value in call_factory(reference).tensors():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(tensor_bytes(value))
    return ModelSource(reference, "factory", digest.hexdigest(), files, factory=reference)


def call_factory(reference: str) -> Made:
    """Call the factory and check what it returns. Raises BadFactory."""
    make = _find(reference)
    try:
        # Weights drawn at random are the same in every call: capture, comparison, and the next compile.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = make()
    except OptccError:
        raise
    except Exception as error:
        raise BadFactory(f"the factory raised {type(error).__name__}: {error}", where=reference) from error
    if not isinstance(made, tuple) or len(made) not in (2, 3, 4) or not isinstance(made[0], nn.Module):
        raise BadFactory(
            "the factory must return (module, example_inputs[, dynamic_dims[, data]])", where=reference
        )
    module = made[0].eval()
    example = by_name(module.forward, made[1], reference)
    dims = _dims(example, made[2] if len(made) > 2 else {}, reference)
    data = _data(module, made[3] if len(made) > 3 else {}, dims, example, reference)
    return Made(module, example, dims, data)


def capture_factory(source: ModelSource) -> CapturedProgram:
    """The module as a graph. Raises BadFactory, CaptureFailed."""
    from optcc.frontend.capture import weights_of

    assert source.factory is not None
    made = call_factory(source.factory)
    exported, limits = _export(made, source.name)
    weights, placeholders = weights_of(exported, made.module, {}, prefix="")
    return CapturedProgram(
        exported,
        weights,
        placeholders,
        tuple(made.example),
        made.dims,
        output_names(exported),
        "function",
        None,
        source,
        {k: v for k, v in facts.count(made.module, 0).items() if k not in ("attentions", "ropes")},
        limits,
    )


def output_names(exported: ExportedProgram) -> tuple[str, ...]:
    """`output`, or `output_0` and on; the keys where the program returns a dict of tensors with text for keys."""
    results = exported.graph.output_node().args[0]
    assert isinstance(results, tuple | list)
    spec = exported.call_spec.out_spec
    keys = spec.context if spec.type is dict else ()
    if len(keys) == len(results) and all(isinstance(key, str) and key.isidentifier() for key in keys):
        return tuple(keys)
    return ("output",) if len(results) == 1 else tuple(f"output_{i}" for i in range(len(results)))


def _export(made: Made, name: str) -> tuple[ExportedProgram, dict[str, int]]:
    """The graph, and how large its dimensions can be where the module says so: a table of 512 positions, say."""
    from optcc.frontend.capture import export

    try:
        return export(made.module, made.example, made.dims, name), {}
    except CaptureFailed as error:
        limits = {dim: int(most) for dim, most in _LIMIT.findall(str(error.__cause__))}
        if not limits:
            raise
    return export(made.module, made.example, made.dims, name, limits), limits


def _find(reference: str) -> Callable[[], object]:
    place, _, name = reference.rpartition(":")
    module = _load_file(Path(place), reference) if place.endswith(".py") else _import(place, reference)
    found = getattr(module, name, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise BadFactory(f"{place} has no function {name!r}", where=reference, hint=nearest(name, known))
    return found  # type: ignore[no-any-return]


def _import(name: str, reference: str) -> object:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise BadFactory(
            f"{name} can't be imported ({type(error).__name__}: {error})", where=reference
        ) from error


def _load_file(path: Path, reference: str) -> object:
    if not path.is_file():
        names = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise BadFactory(
            f"there is no file {path}", where=reference, hint=nearest(path.name, names) if names else None
        )
    # The same text is run once per process: a second run would register the user's operators twice.
    name = f"optcc_factory_{path.stem}_{files_digest([path.resolve()])[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling inside the file look it up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadFactory(f"{path} can't be run ({type(error).__name__}: {error})", where=reference) from error
    return module


def tensor_bytes(value: Tensor) -> memoryview:
    """A tensor's content, for hashing."""
    flat = value.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")  # type: ignore[arg-type]


def by_name(forward: Callable[..., object], inputs: object, reference: str) -> dict[str, Tensor]:
    """Inputs as a dict by argument name. Raises BadFactory."""
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    if isinstance(inputs, tuple | list):
        names = list(inspect.signature(forward).parameters)
        if len(inputs) > len(names):
            raise BadFactory(
                f"{len(inputs)} example inputs for {len(names)} arguments of forward", where=reference
            )
        inputs = dict(zip(names, inputs, strict=False))
    if not isinstance(inputs, Mapping) or not all(isinstance(value, Tensor) for value in inputs.values()):
        raise BadFactory(
            "example_inputs must be a dict of tensors by argument name, or a tuple of tensors",
            where=reference,
        )
    return {str(name): value for name, value in inputs.items()}


def _data(
    module: nn.Module,
    given: object,
    dims: Mapping[str, tuple[Dim, ...]],
    example: Mapping[str, Tensor],
    reference: str,
) -> dict[str, tuple[Mapping[str, Tensor], ...]]:
    """Batches by split, each like the example but for the axes that vary, and none in both."""
    if not isinstance(given, Mapping) or not set(given) <= set(SPLITS):
        raise BadFactory('data must be a dict: {"calibration": batches, "check": batches}', where=reference)
    data: dict[str, tuple[Mapping[str, Tensor], ...]] = {
        split: tuple(by_name(module.forward, batch, reference) for batch in given[split])
        for split in SPLITS
        if split in given
    }
    for split, batches in data.items():
        for index, batch in enumerate(batches):
            if wrong := _unlike(batch, example, dims):
                raise BadFactory(f"data: batch {index} of {split}: {wrong}", where=reference)
    seen = {_batch_digest(batch) for batch in data.get("calibration", ())}
    if any(_batch_digest(batch) in seen for batch in data.get("check", ())):
        raise BadFactory(
            "data: a batch is in both calibration and check",
            where=reference,
            hint="what a pass learned from proves nothing about the artifact; split the data",
        )
    return data


def _unlike(
    batch: Mapping[str, Tensor], example: Mapping[str, Tensor], dims: Mapping[str, tuple[Dim, ...]]
) -> str | None:
    """What of a batch doesn't fit the example, or None."""
    if set(batch) != set(example):
        return f"its inputs are {', '.join(sorted(batch))}, the example's {', '.join(sorted(example))}"
    for name, value in batch.items():
        sizes, axes = tuple(value.shape), dims[name]
        fits = len(sizes) == len(axes) and all(a == s for a, s in zip(axes, sizes) if isinstance(a, int))
        if not fits or value.dtype != example[name].dtype:
            return f"{name} is {value.dtype} {sizes}, the example {example[name].dtype} {axes}"
    return None


def _batch_digest(batch: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(batch.items()):
        digest.update(name.encode() + tensor_bytes(value))
    return digest.hexdigest()


def _dims(example: Mapping[str, Tensor], dynamic: object, reference: str) -> dict[str, tuple[Dim, ...]]:
    if not isinstance(dynamic, Mapping):
        raise BadFactory("dynamic_dims must be a dict: {input: {axis: name}}", where=reference)
    unknown = sorted(str(key) for key in dynamic if key not in example)
    if unknown:
        raise BadFactory(
            f"dynamic_dims names unknown inputs: {', '.join(unknown)}",
            where=reference,
            hint=nearest(unknown[0], example),
        )
    dims: dict[str, tuple[Dim, ...]] = {}
    for name, value in example.items():
        axes: list[Dim] = [int(extent) for extent in value.shape]
        for axis, label in dict(dynamic.get(name, {})).items():
            if (
                not isinstance(axis, int)
                or not -len(axes) <= axis < len(axes)
                or not str(label).isidentifier()
            ):
                raise BadFactory(
                    f"dynamic_dims of {name}: {axis!r}: {label!r} is not an axis and a name", where=reference
                )
            if axes[axis] == 1:
                # torch.export takes a size of 1 for a constant
                raise BadFactory(
                    f"axis {axis} of example input {name} has size 1; give 2 or more to let it vary",
                    where=reference,
                )
            axes[axis] = str(label)
        dims[name] = tuple(axes)
    return dims
