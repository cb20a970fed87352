"""`optcc env`: this machine, the packages, and what each backend found."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import click

from optcc import __version__
from optcc.cli.common import Json, common_options, human_bytes, print_json, print_pairs
from optcc.host import Host, package_versions, read_host

PACKAGES = [
    "torch",
    "transformers",
    "safetensors",
    "tokenizers",
    "numpy",
    "gguf",
    "huggingface_hub",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnx",
    "onnx-ir",
    "triton",
    "tensorrt",
    "nvidia-modelopt",
]


@dataclass(frozen=True)
class BackendRow:
    """What one backend's probe said; `hint` is the line that would make it available, empty if it is.

    `notes` are further lines about it.
    """

    name: str
    available: bool
    detail: str
    hint: str
    notes: tuple[str, ...]


@click.command("env")
@common_options
def command(as_json: bool) -> None:
    """Show this machine, the versions of the packages optcc uses, and which backends can be used.

    Please put it into bug reports.
    """
    host, packages, backends = read_host(Path.cwd()), package_versions(PACKAGES), probe_backends()
    if as_json:
        data: dict[str, Json] = {
            "optcc": __version__,
            "host": dataclasses.asdict(host),
            "packages": packages,
            "backends": [dataclasses.asdict(row) for row in backends],
        }
        print_json(data)
        return
    print_pairs([("optcc", __version__), *_host_rows(host)], indent=0)
    click.echo("\npackages")
    print_pairs((name, version or "not installed") for name, version in packages.items())
    click.echo("\nbackends")
    print_pairs(
        pair for row in backends for pair in [(row.name, _told(row)), *(("", note) for note in row.notes)]
    )


def probe_backends() -> list[BackendRow]:
    """Ask every backend folder whether it can be used here, by name. A probe imports no vendor's library."""
    from optcc.backends.registry import backend_names, load_backend

    found = {name: load_backend(name).probe() for name in backend_names()}
    return [
        BackendRow(name, here.ok, here.version if here.ok else here.reason, here.install, here.notes)
        for name, here in found.items()
    ]


def _told(row: BackendRow) -> str:
    if row.available:
        return f"available: {row.detail}" if row.detail else "available"
    return f"not available: {row.detail}" + (f" ({row.hint})" if row.hint else "")


def _host_rows(host: Host) -> list[tuple[str, str]]:
    return [
        ("python", host.python),
        ("system", host.system),
        ("cpu", f"{host.cpu}, {host.cores} cores"),
        ("", " ".join(host.cpu_flags)),
        ("memory", f"{human_bytes(host.memory)}, {human_bytes(host.memory_free)} free"),
        ("disk", f"{human_bytes(host.disk_free)} free here"),
    ]
