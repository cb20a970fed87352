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


class LedgerJson(TypedDict):
    """Bytes of weights as captured and as stored; `rows`, where present, has one row per weight."""

    original_bytes: int
    stored_bytes: int
    quantized: int
    quantized_bytes: int
    plain_bytes: int
    schemes: NotRequired[list[SchemeJson]]
    kv: NotRequired[KvJson | None]
    rows: NotRequired[list[dict[str, Any]]]


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
    proof: NotRequired[Any]
    roofline: NotRequired[Any]
    preflight: NotRequired[Any]
    stages: dict[str, float]
    seconds: float
    peak_bytes: int
    anonymous_bytes: int
    artifact_bytes: int
    source_bytes: int
    host: dict[str, Any]
    digests: dict[str, str]
