"""Opening a graph in ONNX Runtime: one place for its options, so that they are the same everywhere."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from optcc.backends.onnxruntime import native
from optcc.backends.protocol import Availability
from optcc.errors import BackendUnavailable, IncompatibleArtifact, NativeOperatorsMissing
from optcc.host import read_cpu

MODEL = "model.onnx"
OLDEST = "1.28"
"""1.24 to 1.26 refuse to look up rows of 2-bit and asymmetric 4-bit tables; 1.27 computes 2-bit linears wrongly."""
INSTALL = "pip install 'optcc-compiler[onnxruntime]'"
_PACKAGES = ("onnxruntime", "onnxruntime-gpu")
# It moves roundings to before a max-pool whose operand is float, and pooling uint8 in NCHW is 30 times slower.
DISABLED = ["QDQPropagationTransformer"]


def availability(compiling: bool = True) -> Availability:
    """Whether ONNX Runtime is here and new enough; imports nothing.

    Args:
        compiling: also ask for what writes graphs.
    """
    if find_spec("onnxruntime") is None:
        return Availability(False, reason="onnxruntime is not installed", install=INSTALL)
    version = _version()
    if _numbers(version) < _numbers(OLDEST):
        return Availability(
            False, version, f"onnxruntime {version} is older than {OLDEST}", f"{INSTALL} --upgrade"
        )
    missing = [name for name in ("onnx", "onnx_ir") if compiling and find_spec(name) is None]
    if missing:
        return Availability(False, version, f"{' and '.join(missing)} not installed", INSTALL)
    return Availability(True, version)


def _version() -> str:
    for package in _PACKAGES:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "0"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def options(threads: int) -> Any:
    """Session options.

    Args:
        threads: 0 means one per physical core.
    """
    import onnxruntime as ort

    made = ort.SessionOptions()
    made.intra_op_num_threads = threads
    made.inter_op_num_threads = 1
    made.log_severity_level = 3
    # Every step has other sizes: memory patterns would be planned and kept for each of them.
    made.enable_mem_pattern = False
    if not _exact_products():
        made.add_session_config_entry("session.x64quantprecision", "1")
    return made


def _exact_products() -> bool:
    """Whether this CPU adds products of uint8 and int8 in 32 bits.

    x86 without VNNI adds pairs of them in 16 bits, which saturate: ONNX Runtime then has slower kernels that do not.
    """
    flags = read_cpu(Path("/proc/cpuinfo"))[1]
    return "avx2" not in flags or bool(flags & {"avx_vnni", "avx512_vnni", "avx512vnni"})


def needs_native(graph: bytes) -> bool:
    """Whether a serialized model imports the domain of our native operators.

    A model lists the domains it uses as OperatorSetIdProto {domain = 1, version = 2}; reading that message alone spares
    running an artifact the package `onnx`.
    """
    domain = native.DOMAIN.encode()
    return b"\x0a" + bytes([len(domain)]) + domain + b"\x10\x01" in graph


def _registered(made: Any, root: Path) -> Any:
    """Session options with the native operators where the graph needs them.

    Raises:
        NativeOperatorsMissing: it does, and they can't be used here.
    """
    path = root / MODEL
    if not path.is_file() or not needs_native(path.read_bytes()):
        return made
    status, library = native.status(), native.library()
    if library is None or not status.ok:
        raise NativeOperatorsMissing(
            f"the graph has optcc's native operators, which can't be used here: {status.reason}",
            where=str(path),
            hint=f"{native.INSTALL}; or compile again with OPTCC_NATIVE=off, for ONNX Runtime's own operators",
        )
    made.register_custom_ops_library(str(library))
    return made


def open_session(root: Path, threads: int, graph: bytes | None = None, profile: str = "") -> Any:
    """An InferenceSession over `root`; weights are mapped from the file.

    Args:
        root: the artifact.
        threads: 0 means one per physical core.
        graph: a serialized model to run over its weights, in place of the artifact's own.
        profile: beginning of the file that ONNX Runtime's profiler writes; empty for none.

    Raises:
        BackendUnavailable: no ONNX Runtime, or one that is too old.
        NativeOperatorsMissing: the graph needs operators that were not built here.
        IncompatibleArtifact: ONNX Runtime refuses the graph; its message is quoted.
    """
    found = availability(compiling=False)
    if not found.ok:
        raise BackendUnavailable(f"the backend onnxruntime can't be used: {found.reason}", hint=found.install)
    import onnxruntime as ort

    made = _registered(options(threads), root)
    if graph is not None:
        made.add_session_config_entry("session.model_external_initializers_file_folder_path", str(root))
    if profile:
        made.enable_profiling = True
        made.profile_file_prefix = profile
    try:
        return ort.InferenceSession(
            str(root / MODEL) if graph is None else graph,
            made,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=DISABLED,
        )
    except Exception as error:  # the classes ONNX Runtime raises have no common base
        raise IncompatibleArtifact(
            f"onnxruntime {found.version} refuses the graph: {error}",
            where=str(root / MODEL),
            hint="rebuild the artifact here, or install the version of onnxruntime it was built with",
        ) from error


def try_open(root: Path) -> str | None:
    """ONNX Runtime's reason to refuse a graph just written, or None. Nothing is optimized, so it takes no time."""
    import onnxruntime as ort

    made = _registered(options(1), root)
    made.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    made.add_session_config_entry("session.disable_prepacking", "1")
    try:
        ort.InferenceSession(str(root / MODEL), made, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        return str(error)
    return None
