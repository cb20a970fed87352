"""Every error a user can cause, with a stable code.

One class per cause. An error says what happened, where (file:line, node, recipe line) and what to do. Its docstring
is the page that `optcc explain CODE` prints and docs/troubleshooting.md is generated from: title, cause, cure.
The standard library alone is imported: `optcc --help` and `optcc run` load this.
"""

from __future__ import annotations

from collections.abc import Iterator

from optcc.error import OptccError as OptccError
from optcc.error import nearest as nearest
from optcc.error import together as together
from optcc.recipe_errors import BadOption as BadOption
from optcc.recipe_errors import BadOverride as BadOverride
from optcc.recipe_errors import BadSetting as BadSetting
from optcc.recipe_errors import ExtendsCycle as ExtendsCycle
from optcc.recipe_errors import RecipeField as RecipeField
from optcc.recipe_errors import RecipeNotFound as RecipeNotFound
from optcc.recipe_errors import RecipeSyntax as RecipeSyntax
from optcc.recipe_errors import UnknownOption as UnknownOption
from optcc.recipe_errors import UnknownPass as UnknownPass
from optcc.recipe_errors import UnknownScheme as UnknownScheme

# --- models ------------------------------------------------------------------------------------------------------


class ModelNotFound(OptccError):
    """The model is not there.

    A model is a directory with `config.json` and safetensors files, a `.gguf` or `.pt2` file, a hub id, or
    `package.module:factory`.
    """

    code = "E201"


class CorruptWeights(OptccError):
    """A weight file is damaged, cut short, or doesn't hold what the configuration needs.

    Download the file again and compare its size and SHA-256 with the publisher's.
    """

    code = "E202"


class UnsupportedArchitecture(OptccError):
    """This architecture can't be compiled.

    optcc captures decoders whose attention goes through transformers' attention interface. The message names the
    feature that is in the way. It is refused before any weight is read.
    """

    code = "E203"


class CaptureFailed(OptccError):
    """The model could not be turned into a graph.

    The message names the operator and the line of the model's own source that could not be captured: usually control
    flow that depends on a tensor's value, or an operator without a shape rule.
    """

    code = "E204"


class AttentionCount(OptccError):
    """The captured graph doesn't have one attention operator per layer.

    Part of the model computes attention without transformers' attention interface, so the KV cache could not be
    attached to it. The message gives both counts.
    """

    code = "E205"


class HubUnreachable(OptccError):
    """The model hub could not be reached, or has no model of this name.

    Give a local directory instead, or check the name and the network.
    """

    code = "E206"


class BadFactory(OptccError):
    """`package.module:factory` can't be used as a model.

    The factory takes no arguments and returns `(module, example_inputs[, dynamic_dims[, data]])`: an `nn.Module` and a
    dict of tensors by argument name, or a tuple of tensors. See `docs/models.md`.
    """

    code = "E207"


class MissingPackage(OptccError):
    """An optional package is needed and not installed.

    The message gives the install command.
    """

    code = "E208"


class UnsupportedCheckpoint(OptccError):
    """A quantized checkpoint is stored in a way that optcc has no format for.

    Checkpoints of compressed-tensors, GPTQ, AWQ and modelopt are read as they are. The message names what is in the way
    and what to do. The way out that always works is the original model with a recipe of optcc.
    """

    code = "E209"


class UnsafeProgram(OptccError):
    """Loading this `.pt2` file could run what is in it.

    Only raw tensors and plain names are loaded, as `docs/models.md` says. Export the model again from its source.
    """

    code = "E210"


# --- graphs and passes -------------------------------------------------------------------------------------------


class IRCheckFailed(OptccError):
    """A graph breaks a rule of the IR.

    Checked after every pass: structure, types re-inferred from the operands, the operators the stage allows, and that
    every weight is accounted for. If it names a pass of optcc's own, it is a bug of optcc: please report it with the
    dump (`--dump-ir DIR`).
    """

    code = "E301"


class PassFailed(OptccError):
    """A pass raised an error or broke its contract.

    The message names the pass, those that ran before it, and the cause.
    """

    code = "E302"


class IRTextError(OptccError):
    """IR text can't be read back.

    The message gives the line. The format is described in `docs/ir.md`.
    """

    code = "E303"


class PreconditionFailed(OptccError):
    """A pass can't work on this module.

    The message says what the pass needs and what it found, for example paging the KV cache of a model without
    attention.
    """

    code = "E304"


class PipelineText(OptccError):
    """A pipeline's text can't be parsed.

    The form is `pass-id{option=value option=value},fix(8){pass-id,pass-id}`.
    """

    code = "E305"


# --- quantization ------------------------------------------------------------------------------------------------


class GroupSize(OptccError):
    """The group size doesn't divide a weight's input width.

    Every group must be whole. The message lists the weights concerned and the group sizes that divide all of them.
    """

    code = "E401"


class LedgerMismatch(OptccError):
    """A weight, or the KV cache, was not stored the way its scheme says.

    The ledger compares the intended type and size of every weight with the bytes in the artifact, and the type of the
    KV pools with what `quantize.kv` was to make them. A mismatch is never a warning: a compile that quantized less than
    it was told to has failed.
    """

    code = "E402"


class NoCalibration(OptccError):
    """A pass learns from data, and there is none.

    `calibrate.data` of the recipe names the texts; a model without a tokenizer, or a function, is calibrated on inputs
    like those of the check. When passes are run from Python, set `Context.calibration`.
    """

    code = "E403"


# --- backends ----------------------------------------------------------------------------------------------------


class BackendUnavailable(OptccError):
    """The backend can't be used on this machine.

    A package or a device is missing. `optcc env` shows what each backend found and the command that installs it.
    """

    code = "E501"


class UnsupportedOp(OptccError):
    """The backend can't run an operator of this graph.

    The message names each operator, why it is refused, and the line of the model's source it came from.
    """

    code = "E502"


class BackendCompileFailed(OptccError):
    """The backend refused the lowered graph.

    The vendor's message is quoted in full.
    """

    code = "E503"


class NativeOperatorsMissing(OptccError):
    """The artifact needs optcc's native operators, and this machine has none.

    Installing optcc compiles them when it finds a C++ compiler; `optcc env` says whether they are there, and why not.
    Install a compiler and reinstall, or compile the model again with `OPTCC_NATIVE=off` in the environment: the
    artifact then holds ONNX Runtime's own operators alone. If `OPTCC_ISA` is set, it must name an instruction set that
    the machine has.
    """

    code = "E504"


# --- artifacts ---------------------------------------------------------------------------------------------------


class NotAnArtifact(OptccError):
    """The path is not an optcc artifact.

    An artifact is the directory that `optcc compile … -o DIR` wrote; it holds `manifest.json`.
    """

    code = "E601"


class CorruptArtifact(OptccError):
    """A file of the artifact doesn't have the bytes it was written with.

    The message names every file that differs. Copy the artifact again or rebuild it.
    """

    code = "E602"


class IncompatibleArtifact(OptccError):
    """The artifact was built for something else.

    The message names the field that differs (format version, backend, runtime version) and the command that rebuilds
    it here.
    """

    code = "E603"


class FailedArtifact(OptccError):
    """The artifact did not pass its accuracy check.

    It was written so that it can be inspected. `optcc inspect DIR` shows the numbers; `--force` runs it all the same.
    """

    code = "E604"


class CannotWrite(OptccError):
    """The output can't be written.

    The disk is full, or the directory isn't writable. Nothing was left behind; finished passes stay in the cache.
    """

    code = "E605"


class OutputInTheWay(OptccError):
    """The output path exists and is not an optcc artifact.

    optcc replaces artifacts of its own, never anything else. Choose another path or remove what is there.
    """

    code = "E606"


class CacheInUse(OptccError):
    """The cache can't be emptied now: a compile is using it.

    Wait until it has ended, or stop it.
    """

    code = "E607"


class NotEnoughMemory(OptccError):
    """The machine has less memory than the compile will probably take.

    `optcc plan MODEL RECIPE --preflight` prints the estimate and what it is made of.
    """

    code = "E609"


class ExportRefused(OptccError):
    """A checkpoint format can't hold what the artifact holds.

    The message names the weights or the scheme that are in the way and the formats and schemes that are near. Nothing
    is written: a checkpoint that means something else would be worse than none.
    """

    code = "E608"


# --- running -----------------------------------------------------------------------------------------------------


class PoolTooSmall(OptccError):
    """The KV pool can't hold the request.

    The message gives the blocks needed and there. Ask for fewer tokens, or give the engine more (`--kv-tokens`).
    """

    code = "E701"


class PromptTooLong(OptccError):
    """Prompt and answer together exceed the model's context.

    The message gives the three numbers. Shorten the prompt or lower `--max-tokens`.
    """

    code = "E702"


class BadSampling(OptccError):
    """A sampling parameter is out of range.

    temperature >= 0 (0 is greedy), 0 < top-p <= 1, top-k >= 0 (0 is off), max tokens >= 1.
    """

    code = "E703"


class NotATextModel(OptccError):
    """The artifact doesn't generate text.

    Encoders and other plain functions are called with named inputs, not with a prompt: see `docs/serving.md`.
    """

    code = "E704"


class BadPrompt(OptccError):
    """The prompt can't be turned into tokens for this model.

    It is empty, names a token the model doesn't have, or the model's chat template refuses the conversation.
    """

    code = "E705"


# --- checks ------------------------------------------------------------------------------------------------------


class GateFailed(OptccError):
    """The artifact is less accurate than its limits allow.

    Each limit is printed with the measured value and its interval. Raise the limit in the recipe (`check.limits`) if
    the loss is acceptable, or use a gentler scheme.
    """

    code = "E801"
    exit_code = 1


class BadCheckData(OptccError):
    """What to check on, or against, is missing, too short or not readable.

    Built-in texts are `prose`, `code` and `chat`; a file holds plain text, or JSON lines with a `text` field. A
    baseline is what `optcc check --write-baseline FILE` wrote.
    """

    code = "E802"


class TokenizerDiffers(OptccError):
    """The artifact reads or writes text in another way than the model it was made from.

    Original and artifact are compared on the same tokens, so a wrong tokenizer, chat template or end token would not
    show in any measurement. Before anything is measured, the artifact's own files are held against the model's
    tokenizer as transformers loads it: tokens of texts, text of tokens, a conversation with its generation prompt, and
    the tokens that end an answer. If the model's files are as they should be, this is a bug of optcc.
    """

    code = "E803"
    exit_code = 1


class ContractBroken(OptccError):
    """A pass changed what the model computes by more than it promised.

    Each pass says what it does to values: nothing (`exact`), rounding (`tolerance`), or a loss within a budget (`kl`).
    With `--prove each` or `--prove stages` it is held to that on a few windows of text. The message names the pass,
    what was measured, the bound, and the node that moved, with its source line. A pass of your own that is meant to
    change values declares it: see Contracts in `docs/proof.md`. GPTQ is always held to doing better than rounding to
    nearest on the data that it learned from.
    """

    code = "E810"
    exit_code = 1


class LoweringDiffers(OptccError):
    """An operator of the artifact doesn't compute what the final program says.

    With `--prove each` or `--prove stages` the backend runs every operator on the reference's own inputs. The message
    names the first node that is off, what was measured, and the bound for its kind. It is a fault of the backend or of
    a lowering: compile with `target.backend=reference`, or with `OPTCC_NATIVE=off` if the node has a native kernel,
    and report it.
    """

    code = "E811"
    exit_code = 1


class NothingToBlame(OptccError):
    """What was asked for can't be found in this model.

    `blame` needs a model that lost something, and a residual stream or packed weights to put back; `bisect` needs a
    pipeline. The message says which is missing.
    """

    code = "E812"


def all_errors() -> Iterator[type[OptccError]]:
    """Every concrete error class, by code."""
    found: list[type[OptccError]] = []
    queue = list(OptccError.__subclasses__())
    while queue:
        cls = queue.pop()
        queue.extend(cls.__subclasses__())
        if cls.__module__ in (__name__, "optcc.recipe_errors"):
            found.append(cls)
    return iter(sorted(found, key=lambda c: c.code))
