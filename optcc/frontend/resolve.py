"""From what the user typed to a model that can be read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from optcc.errors import CorruptWeights, HubUnreachable, MissingPackage, ModelNotFound, OptccError, nearest
from optcc.frontend.digest import files_digest
from optcc.frontend.program import LoadOptions, ModelSource
from optcc.frontend.refuse import refuse_config
from optcc.frontend.safetensors import read_header, weight_files

_FACTORY = re.compile(r"^(?P<module>[^:]+):(?P<name>[A-Za-z_]\w*)$")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_HUB_FILES = ("*.json", "*.safetensors", "*.jinja")
_HUB_SECONDS = 5.0


def refuse_quantized(config: Mapping[str, object], where: str) -> None:
    """As `optcc.frontend.quantized.refuse_quantized`, imported when there is something to refuse."""
    if config.get("quantization_config"):
        from optcc.frontend import quantized

        quantized.refuse_quantized(config, where)


def resolve(reference: str, options: LoadOptions | None = None) -> ModelSource:
    """Find the model that `reference` means, and check that its files are whole.

    A reference is a directory with `config.json` and safetensors files, a `.gguf` file (converted once into the cache),
    a `.pt2` file of `torch.export.save`, `package.module:factory` or `path/file.py:factory`, or a hub id
    `organization/name`.

    Raises:
        ModelNotFound, CorruptWeights, UnsafeProgram, UnsupportedArchitecture, UnsupportedCheckpoint, HubUnreachable,
        BadFactory, CannotWrite.
    """
    options = options or LoadOptions()
    path = Path(reference).expanduser()
    if path.is_dir():
        return _directory(path, path.resolve().name)
    if path.suffix == ".gguf":
        return _gguf(path)
    if path.suffix == ".pt2":
        return _program(path)
    if path.is_file():
        raise ModelNotFound(
            f"{path.name} is neither a directory nor a .gguf or .pt2 file", where=str(path.parent)
        )
    if _FACTORY.match(reference):
        from optcc.frontend.factory import factory_source

        return factory_source(reference)
    if _HUB_ID.match(reference) and not path.parent.is_dir():
        return _hub(reference)
    raise _not_found(path)


def _not_found(path: Path) -> ModelNotFound:
    folder = path.parent
    if not folder.is_dir():
        return ModelNotFound(f"no model {path.name!r}: {folder} does not exist", where=str(path))
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() or entry.suffix in (".gguf", ".pt2")]
    return ModelNotFound(
        f"there is no {path.name!r} in {folder}", where=str(path), hint=nearest(path.name, names)
    )


def _directory(path: Path, name: str) -> ModelSource:
    config = path / "config.json"
    if not config.is_file():
        ggufs = sorted(entry.name for entry in path.glob("*.gguf"))
        hint = f"give the file itself: {path / ggufs[0]}" if ggufs else nearest(path.name, _siblings(path))
        raise ModelNotFound("the directory has no config.json", where=str(path), hint=hint)
    settings = read_config(config)
    refuse_config(settings, where=str(config))
    refuse_quantized(settings, where=str(config))
    files = weight_files(path)
    for file in files:
        read_header(file)
    beside = path / "hf_quant_config.json"  # modelopt's; belongs to the weights
    hashed = (config, *files, *([beside] if beside.is_file() else []))
    return ModelSource(name, "directory", files_digest(hashed), hashed, directory=path)


def resolve_shape(reference: str, options: LoadOptions | None = None) -> ModelSource:
    """As `resolve`; but a directory with a `config.json` and no weights at all gives a model that can be captured, and
    of which nothing can be read.

    Raises as `resolve` does.
    """
    path = Path(reference).expanduser()
    config = path / "config.json"
    if not config.is_file() or any(path.glob("*.safetensors*")):
        return resolve(reference, options)
    settings = read_config(config)
    refuse_config(settings, where=str(config))
    if settings.get("quantization_config"):
        return resolve(reference, options)  # what such weights are, only they say
    digest = files_digest((config,))
    return ModelSource(path.resolve().name, "directory", digest, (config,), directory=path, shape_only=True)


def _siblings(path: Path) -> list[str]:
    return [entry.name for entry in path.resolve().parent.iterdir() if (entry / "config.json").is_file()]


def read_config(path: Path) -> dict[str, object]:
    """`config.json` as plain data. Raises CorruptWeights if it isn't a JSON object."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise CorruptWeights(f"the configuration can't be read ({error})", where=str(path)) from error
    if not isinstance(data, dict):
        raise CorruptWeights("the configuration is not a JSON object", where=str(path))
    return data


def _gguf(path: Path) -> ModelSource:
    if not path.is_file():
        raise _not_found(path)
    from optcc.frontend.digest import file_digest
    from optcc.frontend.gguf.convert import convert

    digest = file_digest(path)
    return ModelSource(path.stem, "directory", digest, (path,), directory=convert(path, digest))


def _program(path: Path) -> ModelSource:
    if not path.is_file():
        raise _not_found(path)
    from optcc.frontend.exported import program_source

    return program_source(path)


def _hub(name: str) -> ModelSource:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingPackage(
            "huggingface_hub is not installed", hint="pip install huggingface_hub"
        ) from error
    patterns = list(_HUB_FILES)
    try:
        # What is in the hub's own cache is used as it is: a compile must not change because a hub did.
        found = huggingface_hub.snapshot_download(name, allow_patterns=patterns, local_files_only=True)
    except Exception:
        try:
            found = huggingface_hub.snapshot_download(
                name, allow_patterns=patterns, etag_timeout=_HUB_SECONDS
            )
        except OptccError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise HubUnreachable(
                f"{name!r} could not be fetched ({reason})",
                where=name,
                hint="give a local directory or .gguf file, or check name and network",
            ) from error
    return _directory(Path(found), name)
