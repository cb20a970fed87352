"""The shape of `report/report.json`, version 1, as types. `docs/report.schema.json` is written from them.

The version rises when a key is taken away or changes its meaning; new keys may come at any time. Sizes are bytes, times
are seconds, rates are tokens per second, KL is in nats per token. Null stands for a number that is not finite.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

VERSION = 1


class EstimateJson(TypedDict):
    """A measured value and its 95 % interval. `units` counts what was sampled; an `exact` value has no interval."""

    value: float | None
    low: float | None
    high: float | None
    units: int
    method: str


class MissJson(TypedDict):
    """A place where a rewrite rule nearly applied, and why it didn't; `source` is a line of the model's code."""

    rule: str
    node: str
    reason: str
    source: str | None
    depth: int


class PassJson(TypedDict):
    """What one pass did. `nodes` and `weight_bytes` are those after it; `tables` holds its own measurements."""

    step: str
    seconds: float
    peak_bytes: int
    changed: bool
    nodes: int
    weight_bytes: int
    hits: dict[str, int]
    misses: list[MissJson]
    notes: list[str]
    tables: NotRequired[dict[str, list[dict[str, Any]]]]
    cached: bool


class FusionJson(TypedDict):
    """Operators that the model's configuration implies, and those found; `reasons` for what is missing."""

    kind: str
    expected: int
    found: int
    reasons: list[str]


class SchemeJson(TypedDict):
    """What is stored in one quantization scheme: weights, and bytes of packed values and of scales."""

    scheme: str
    weights: int
    values: int
    scales: int


class KvJson(TypedDict):
    """What a token takes in the KV cache, over all layers, and what it would unquantized."""

    type: str
    scale: str
    token_bytes: int
    plain_token_bytes: int


class WeightJson(TypedDict):
    """One weight: what it was to be stored as, what lies in the file, and how far that is from the original's.

    `error` is the root mean square error relative to the weight's own, `sqnr` the same in dB, `steps` the same in steps
    of the grid; null where there is nothing to compare with, as `remark` says. `rows` of the weight were compared.
    """

    name: str
    scheme: str
    shape: list[int]
    stored: str
    tensors: list[str]
    bytes: int
    error: float | None
    sqnr: float | None
    steps: float | None
    rows: int
    remark: str


class LedgerJson(TypedDict):
    """Bytes of weights as captured and as stored; `rows`, where present, has one row per weight."""

    original_bytes: int
    stored_bytes: int
    quantized: int
    quantized_bytes: int
    plain_bytes: int
    schemes: NotRequired[list[SchemeJson]]
    kv: NotRequired[KvJson | None]
    rows: NotRequired[list[WeightJson]]


class WindowJson(TypedDict):
    """Means over one window of text."""

    rows: int
    kl: float | None
    nll: float | None
    top1: float


class PositionJson(TypedDict):
    """Mean KL of the positions `first` to `last` of every window, counted from 0."""

    first: int
    last: int
    kl: EstimateJson


class TextJson(TypedDict):
    """Original against artifact on one text, or on all (`total`). `digest` is of the tokens that were compared."""

    name: str
    digest: str
    tokens: int
    rows: int
    nonfinite: int
    perplexity_original: float | None
    perplexity_artifact: float | None
    metrics: dict[str, EstimateJson]
    windows: list[WindowJson]
    positions: NotRequired[list[PositionJson]]


class GreedyJson(TypedDict):
    """Greedy answers: per prompt the equal leading tokens and the length of the longer answer."""

    matches: list[list[int]]
    identical: int
    greedy: EstimateJson


class MeasurementsJson(TypedDict):
    """What the check measured: `texts`, `total` and `greedy` of a decoder, `outputs` and `inputs` of a function."""

    texts: NotRequired[list[TextJson]]
    total: NotRequired[TextJson]
    greedy: NotRequired[GreedyJson | None]
    outputs: NotRequired[dict[str, dict[str, EstimateJson]]]
    inputs: NotRequired[int]
    inputs_digest: NotRequired[str]
    original_seconds: float
    artifact_seconds: float


class VerdictJson(TypedDict):
    """One limit held against one text or output."""

    subject: str
    metric: str
    limit: float
    direction: Literal["at-most", "at-least"]
    outcome: Literal["pass", "fail", "undecided"]
    measured: EstimateJson | None
    tokens_needed: int | None
    reason: str


class GateJson(TypedDict):
    """All verdicts, and what they come to."""

    status: Literal["ok", "failed", "undecided"]
    verdicts: list[VerdictJson]


class CheckJson(TypedDict):
    """Measurements and verdicts; `notes` say how the inputs were made when not from the recipe's data."""

    measurements: MeasurementsJson
    gate: GateJson
    links: NotRequired[Any]
    notes: NotRequired[list[str]]


class SpreadJson(TypedDict):
    """A median over rounds, and the range."""

    median: float
    low: float
    high: float


class SideJson(TypedDict):
    """Tokens per second of one side."""

    prefill: SpreadJson
    decode: SpreadJson


class RatioJson(TypedDict):
    """The artifact's median rate divided by the original's."""

    prefill: float
    decode: float


class SpeedJson(TypedDict):
    """Tokens per second of one request, original and artifact in turn on the same machine."""

    original: SideJson
    artifact: SideJson
    ratio: RatioJson
    prompt_tokens: int
    new_tokens: int
    rounds: int
    threads: int


class PeakJson(TypedDict):
    """Highest memory: `resident` counts pages of mapped files, `anonymous` only what no file backs."""

    resident: int
    anonymous: int


class ContextJson(TypedDict):
    """What a token of the KV cache takes, and how many tokens fit: `fits` of all requests, `longest` of one."""

    token_bytes: int
    limit: int
    memory_bytes: int
    serving_bytes: int
    fits: int
    block: int
    longest: int


class PredictedJson(TypedDict):
    """What preflight said before a weight was read. `seconds` are estimated, by stage; `how` is for people."""

    model: str
    captured_bytes: int
    quantized: int
    artifact_bytes: int
    peak: PeakJson
    peak_bytes: int
    anonymous_bytes: int
    stages: dict[str, PeakJson]
    disk_bytes: int
    seconds: dict[str, float]
    estimated_seconds: float
    context: ContextJson | None
    how: dict[str, str]
    left_out: list[str]


class MeasuredJson(TypedDict):
    """The same when the compile was over; `seconds` of the stages that were estimated."""

    artifact_bytes: int
    peak_bytes: int
    anonymous_bytes: int
    seconds: float


class ProblemJson(TypedDict):
    """An error as data."""

    code: str
    what: str
    where: str | None
    hint: str | None


class PreflightJson(TypedDict):
    """What preflight found, predicted beside measured."""

    problems: list[ProblemJson]
    notes: list[str]
    predicted: PredictedJson | None
    measured: MeasuredJson


class MachineJson(TypedDict):
    """What the machine can do at most with `threads`: 10^9 bytes, and 10^9 operations, a second."""

    threads: int
    read_gb_s: float
    fp32_gops: float
    int8_gops: float
    measured: str


class StepJson(TypedDict):
    """One kind of step: `requests` with `tokens` each, behind `before` others. Times are milliseconds; of a step
    `unexplained_ms` are spent between operators and in those that the runtime added. Linears that run as one operator
    are called one by one for this, so that it takes a little longer than a step that is served."""

    name: str
    requests: int
    tokens: int
    before: int
    limit_ms: float
    measured_ms: float | None
    share: float | None
    unexplained_ms: float | None


class OperatorsJson(TypedDict):
    """All operators of one kind in one kind of step (`load`): bytes and operations of all, the time that the machine's
    limits allow, the time they took, and the former divided by the latter."""

    load: str
    op: str
    name: str
    count: int
    bytes: int
    operations: int
    bound: Literal["memory", "compute"]
    limit_ms: float
    measured_ms: float | None
    share: float | None


class FallbackJson(TypedDict):
    """Operators over quantized weights that have no kernel of their own, and why."""

    name: str
    kernel: str
    reason: str
    count: int


class RooflineJson(TypedDict):
    """Every operator against the limits of the machine, and what follows, in words."""

    machine: MachineJson
    steps: list[StepJson]
    rows: list[OperatorsJson]
    fallbacks: list[FallbackJson]
    sentences: list[str]


class CommandJson(TypedDict):
    """What the compile was asked for, as typed: `options` are the rest of the command line."""

    model: str
    recipe: str
    out: str
    options: list[str]


class ReportJson(TypedDict):
    """Everything a compile found out. Keys that a reader doesn't know are to be left alone."""

    version: int
    date: NotRequired[str]
    command: NotRequired[CommandJson]
    model: str
    recipe: str
    backend: str
    status: Literal["ok", "failed", "unchecked"]
    passes: list[PassJson]
    fusions: list[FusionJson]
    ledger: LedgerJson
    check: CheckJson | None
    speed: SpeedJson | None
    speed_limit: NotRequired[VerdictJson | None]
    roofline: NotRequired[RooflineJson | None]
    proof: NotRequired[Any]
    preflight: NotRequired[PreflightJson | None]
    stages: dict[str, float]
    seconds: float
    peak_bytes: int
    anonymous_bytes: int
    memory: NotRequired[dict[str, PeakJson]]
    artifact_bytes: int
    source_bytes: int
    host: dict[str, Any]
    digests: dict[str, str]
