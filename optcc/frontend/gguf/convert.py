"""GGUF file -> transformers directory with float32 weights, in the cache, once per file content.

Peak memory stays near the largest tensor: tensors are dequantized one after the other into the output file.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optcc.cache import default_cache, mark_used
from optcc.errors import CannotWrite, CorruptWeights
from optcc.frontend.gguf import tensors as convert_tensors
from optcc.frontend.gguf.metadata import Architecture, Config, to_config
from optcc.frontend.gguf.reader import GgufFile, open_gguf
from optcc.frontend.gguf.tokenizer import write_tokenizer

_FORM = "1"  # raise when the written form changes, so that old cache entries are not used


def convert(path: Path, digest: str) -> Path:
    """The directory that holds the converted model; made now unless it is in the cache.

    Raises:
        CorruptWeights, UnsupportedArchitecture: as found, before anything is written.
        CannotWrite: the cache can't be written; nothing is left behind.
    """
    target = default_cache() / "converted" / f"{digest}-{_FORM}"
    if target.is_dir():
        mark_used(target)
        return target
    file = open_gguf(path)
    architecture, config, wanted = _plan(file)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    except OSError as error:
        raise _cannot_write(target.parent, error) from error
    try:
        text = json.dumps(config, indent=2, sort_keys=True)
        (work / "config.json").write_text(text + "\n", "utf-8")
        write_tokenizer(path, file.fields, work)
        _write_weights(work / "model.safetensors", file, architecture, config, wanted)
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster, with the same bytes
                raise
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _cannot_write(path: Path, error: OSError) -> CannotWrite:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return CannotWrite(
        "the disk is full" if full else f"the cache can't be written ({error.strerror or error})",
        where=str(path),
        hint="free some space, or point OPTCC_CACHE at another disk",
    )


def _plan(file: GgufFile) -> tuple[Architecture, Config, dict[str, str]]:
    """Architecture, configuration and GGUF name -> transformers name, all checked before anything is
    written."""
    import torch
    import transformers

    from optcc.frontend.model import build
    from optcc.frontend.program import LoadOptions

    where = str(file.path)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CorruptWeights("the file has no token_embd.weight", where=where)
    vocab = embedding.shape[0]
    architecture, config = to_config(file.architecture, file.fields, frozenset(file.tensors), vocab, where)
    convert_tensors.rope_factors(file.tensors, config, where)
    settings = transformers.AutoConfig.for_model(
        str(config["model_type"]), **{k: v for k, v in config.items() if k != "model_type"}
    )
    model = build(settings, "decoder", "eager", torch.float32, LoadOptions())
    names = [name for name, _ in model.named_parameters(remove_duplicate=True)]
    wanted = convert_tensors.names_by_gguf(file.architecture, int(settings.num_hidden_layers), names)
    unnamed = sorted(set(names) - set(wanted.values()))
    if unnamed:
        raise CorruptWeights(f"GGUF has no name for {', '.join(unnamed[:4])}", where=where)
    convert_tensors.check_complete(wanted, file.tensors, where)
    return architecture, config, wanted


def _write_weights(
    path: Path, file: GgufFile, architecture: Architecture, config: Config, wanted: Mapping[str, str]
) -> None:
    """A safetensors file with every tensor, by transformers name, in name order."""
    order = sorted((name, gguf_name) for gguf_name, name in wanted.items() if gguf_name in file.tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, gguf_name in order:
        shape = list(file.tensors[gguf_name].shape)
        if architecture.transposed and gguf_name.startswith("blk.") and len(shape) == 2:
            shape.reverse()
        size = math.prod(shape) * 4
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, gguf_name in order:
            values = convert_tensors.read_tensor(file.tensors[gguf_name], architecture, config)
            assert list(values.shape) == header[name]["shape"], name
            out.write(values.data.cast("B"))
        out.flush()
        os.fsync(out.fileno())
