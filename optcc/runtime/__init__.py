"""The shared runtime: engine, scheduler, block pool, sampler, text. numpy only; knows no backend and no
vendor.

Backends implement `Executor`; everybody else uses `Engine`, or `score_windows` for logits of whole texts.
"""

from __future__ import annotations

from optcc.runtime.blocks import BlockPool
from optcc.runtime.chat import ChatTemplate
from optcc.runtime.engine import Engine
from optcc.runtime.events import Event, FinishedEvent, TokenEvent
from optcc.runtime.executor import Batch, CallExecutor, Executor, ModelSpec, StepHandle
from optcc.runtime.faults import BadLogits, BadPrompt, PoolCorrupt
from optcc.runtime.request import FinishReason, Request, StopConditions
from optcc.runtime.sampler import SamplingParams
from optcc.runtime.scheduler import Limits
from optcc.runtime.score import score_windows
from optcc.runtime.stream import Stream
from optcc.runtime.tokenizer import DetokenizeStream, SpecialTokens, Tokenizer

__all__ = [
    "BadLogits",
    "BadPrompt",
    "Batch",
    "BlockPool",
    "CallExecutor",
    "ChatTemplate",
    "DetokenizeStream",
    "Engine",
    "Event",
    "Executor",
    "FinishReason",
    "FinishedEvent",
    "Limits",
    "ModelSpec",
    "PoolCorrupt",
    "Request",
    "SamplingParams",
    "SpecialTokens",
    "StepHandle",
    "StopConditions",
    "Stream",
    "TokenEvent",
    "Tokenizer",
    "score_windows",
]
