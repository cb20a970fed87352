"""Artifacts: one directory that holds a compiled model, written whole and checked byte by byte. Imports no
torch."""

from optcc.artifact.digest import canonical_json, sha256_bytes, sha256_file
from optcc.artifact.manifest import FileEntry, Manifest, ModelRef
from optcc.artifact.starting import open_and_start
from optcc.artifact.store import Artifact
from optcc.artifact.verify import Problem, VerifyReport, verify_artifact
from optcc.artifact.weights import SafetensorsIndex, Span, TensorInfo, TensorSource, write_safetensors
from optcc.artifact.writer import ArtifactWriter

__all__ = [
    "Artifact",
    "ArtifactWriter",
    "FileEntry",
    "Manifest",
    "ModelRef",
    "Problem",
    "SafetensorsIndex",
    "Span",
    "TensorInfo",
    "TensorSource",
    "VerifyReport",
    "canonical_json",
    "open_and_start",
    "sha256_bytes",
    "sha256_file",
    "verify_artifact",
    "write_safetensors",
]
