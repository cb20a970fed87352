"""Golden cases: a module's text, a pipeline, and the text it must become.

A file `<pass id>.ir` holds cases one after another:

    //// title of the case
    <module text>
    // ---- <pipeline text>
    <module text>

A pipeline that changes values, such as a quantization, adds how far results may move relative to the largest:
`// ---- quantize.linear ~ 0.02`.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, fx

from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.ir.text import module_text
from optcc.ir.types import DTYPES, show_type
from optcc.pm import Context, parse_pipeline, run_pipeline
from optcc.pm.context import Calibration
from optcc.pm.instruments import Check

FOLDER = Path(__file__).parent
_SIZES = {"T": 6, "R": 2, "W": 3, "B": 2, "S": 5}
_WEIGHT = re.compile(r'@(\S+|".*") : (\w+)\[(.*)\]')


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        file, title: where it is.
        before, pipeline, after: the three texts.
        tolerance: how far results may move, relative to the largest; None for rounding alone.
    """

    file: Path
    title: str
    before: str
    pipeline: str
    after: str
    tolerance: float | None

    def __str__(self) -> str:
        return f"{self.file.stem}: {self.title}"

    def show(self) -> str:
        """The case as it stands in its file."""
        moves = f" ~ {self.tolerance:g}" if self.tolerance is not None else ""
        return f"//// {self.title}\n{self.before}// ---- {self.pipeline}{moves}\n{self.after}"


def read(file: Path) -> list[Case]:
    """The cases of one file."""
    found = []
    for chunk in re.split(r"^//// ", file.read_text(), flags=re.M)[1:]:
        title, _, body = chunk.partition("\n")
        before, line, after = re.split(r"^// ---- (.*)\n", body, flags=re.M)
        pipeline, _, moves = line.partition(" ~ ")
        found.append(
            Case(
                file,
                title.strip(),
                _tidy(before),
                pipeline.strip(),
                _tidy(after),
                float(moves) if moves else None,
            )
        )
    return found


def _tidy(text: str) -> str:
    return text.strip() + "\n"


def all_cases() -> list[Case]:
    """Every case of every file."""
    return [case for file in sorted(FOLDER.glob("*.ir")) for case in read(file)]


def build(text: str) -> Module:
    """The module with random weights, the same every time: drawn by name and type."""
    module = parse_module(text)
    for name, kind, sizes in _WEIGHT.findall(text.partition("weights {")[2]):
        shape = [int(n) for n in sizes.split(",") if n.strip()]
        module.weights.put(name, _draw(name, DTYPES[kind], shape))
    return module


def _draw(name: str, kind: torch.dtype, shape: list[int]) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if kind.is_floating_point:
        noise = torch.randn(shape, generator=generator)
        return (noise.abs() * 0.02 + 0.01 if "scale" in name else noise).to(kind)
    if kind == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    low, high = (-127, 128) if kind == torch.int8 else (0, 4)
    return torch.randint(low, high, shape, generator=generator).to(kind)


def inputs(module: Module) -> dict[str, Tensor]:
    """Random inputs; symbolic sizes are small, indices are valid rows of any table of six."""
    made = {}
    for node in module.inputs():
        kind = node.meta["val"].dtype
        shape = [_size(module, d) for d in node.meta["val"].shape]
        if node.name == "query_starts":
            made[node.name] = torch.tensor([0, 2, _SIZES["T"]], dtype=kind)
        elif node.name == "position_ids":
            made[node.name] = torch.arange(_SIZES["T"], dtype=kind)
        else:
            made[node.name] = _draw(node.name, kind, shape)
    return made


def _size(module: Module, dim: object) -> int:
    text = module.dims.show(dim)  # type: ignore[arg-type]
    return int(sum(_SIZES[p.strip()] if p.strip() in _SIZES else int(p) for p in text.split("+")))


def signature(module: Module) -> tuple[object, ...]:
    """Names and types of inputs and results."""
    results = module.graph.output_node().args[0]
    assert isinstance(results, tuple)
    values = [n for n in results if isinstance(n, fx.Node)]
    given = [(n.name, show_type(n.meta["val"], module.dims)) for n in module.inputs()]
    made = [show_type(n.meta["val"], module.dims) for n in values]
    return (*given, *zip(module.output_names(), made, strict=True))


def run(case: Case) -> tuple[Module, Module]:
    """The module before, and after the pipeline with all checks on; passes that learn do so from its inputs."""
    before, after = build(case.before), build(case.before)
    data = Calibration((inputs(after),) * 2, digest="golden", tokens=0)
    run_pipeline(after, parse_pipeline(case.pipeline), Context(calibration=data), [Check()])
    return before, after


def movement(before: Module, after: Module) -> float:
    """Largest difference between the modules' results, relative to the largest result."""
    given = inputs(before)
    old, new = (interpret(m, {k: v.clone() for k, v in given.items()}) for m in (before, after))
    return max(
        float((new[name].double() - value.double()).abs().max() / value.double().abs().max().clamp(min=1e-30))
        for name, value in old.items()
    )


def rewrite(file: Path) -> None:
    """Put what the pipelines make now into the file."""
    cases = []
    for case in read(file):
        before, after = run(case)
        cases.append(replace(case, before=module_text(before), after=module_text(after)))
    file.write_text("\n".join(case.show() for case in cases))
