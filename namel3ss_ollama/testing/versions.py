"""Which version of Ollama does what: one feature a line, with the version it begins at and where that can be read.

The test server asks this table wherever versions differ; `docs/compatibility.md` shows it. The versions are those of
releases whose source has it. Up to 0.33 it was read in the source, later ones in what is documented of 0.40.12,
decision models in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from namel3ss_ollama.versions import at_least, numbers

__all__ = ["FEATURES", "Feature"]


class Feature(NamedTuple):
    """What a server does from the version `since` on (None: always) and before `until` (None: still)."""

    about: str
    since: str | None = None
    until: str | None = None

    def on(self, version: str) -> bool:
        """Whether a server of this version does it. A build of no release (0.0.0) is newer than all that are."""
        if not any(numbers(version)):
            return self.until is None
        begun = self.since is None or at_least(version, self.since)
        return begun and (self.until is None or not at_least(version, self.until))


# What a request can say. A field that a server does not know is ignored.

THINK_LEVELS = Feature('`think` can be "low", "medium", "high"; before, 400', "0.11.0")
# api/types.go: ThinkValue; before, Think is a *bool

THINK_MAX = Feature('`think` can be "max"', "0.22.0")
# api/types.go: ThinkValue.UnmarshalJSON

THINK_ANY_LEVEL = Feature("`think` can be any string; one that the model does not define means its default", "0.40.0")
# docs/capabilities/thinking of 0.40.12, pull request 18473; 0.33 refuses it; no version between them was read

THINKS_BY_DEFAULT = Feature("a thinking model thinks where `think` is not sent", "0.12.4")
# server/routes.go: ChatHandler

NUM_PREDICT_BOUND = Feature("an answer has ten windows of tokens at most, whatever `num_predict` says", "0.1.33")
# llm/server.go, 993cf8bf5; since 0.30 llm/llama_server.go: boundedNumPredict

TRUNCATE = Feature("`truncate: false` of a chat or a prompt", "0.12.6")
# api/types.go: ChatRequest, GenerateRequest

SHIFT = Feature("`shift: false`", "0.12.6")
# api/types.go: ChatRequest, GenerateRequest

SHIFT_LOADS = Feature("`shift` is a setting of loading: with another one the model is loaded again", "0.30.0")
# server/sched.go: needsReload

LOGPROBS = Feature("`logprobs`, `top_logprobs` (more than 20: 400)", "0.12.11")
# api/types.go, server/routes.go

DIMENSIONS = Feature("`dimensions` of an embedding", "0.11.11")
# api/types.go: EmbedRequest

RENDER_ONLY = Feature("`_debug_render_only` answers the prompt as the template makes it", "0.11.5")
# api/types.go

NUMA = Feature("the option `numa`", until="0.3.4")
# api/types.go: Runner; what is in neither Options nor Runner is logged and ignored, whatever its type

TFS_Z = Feature("the option `tfs_z`", until="0.5.2")
# api/types.go: Options

PENALIZE_NEWLINE = Feature("the option `penalize_newline`", until="0.5.5")
# api/types.go: Options

SAMPLERS = Feature("the options `mirostat`, `mirostat_tau`, `mirostat_eta`", until="0.7.0")
# api/types.go: Options, fa9973cd7

MEMORY = Feature("the options `low_vram`, `use_mlock`, `vocab_only`", until="0.7.0")
# api/types.go: Runner

DRAFT = Feature("the option `draft_num_predict`", "0.30.0")
# api/types.go: Runner

# What a model's template sees of a tool's parameters. All else of a property is dropped: $ref, const, default, ...
# `type`, `items`, `description` and `enum` of a property are kept by all versions, and so are `$defs` beside them.

TOOL_ANY_OF = Feature("tools: a property keeps `anyOf`", "0.11.3")
# api/types.go: ToolProperty

TOOL_PROPERTIES = Feature("tools: a property keeps `properties`", "0.14.0")
# api/types.go: ToolProperty

TOOL_REQUIRED = Feature("tools: a property keeps `required`", "0.20.0")
# api/types.go: ToolProperty

# What an answer says.

TOOL_CALL_INDEX = Feature("each tool call has an `index`, the first one too", "0.12.6")
# api/types.go: ToolCallFunction

TOOL_CALL_IDS = Feature("each tool call has an `id`", "0.12.10")
# server/routes.go: toolCallId

CACHED_COUNT = Feature("`prompt_eval_cached_count`, a part of `prompt_eval_count`", "0.33.3")
# openclaw#140222 names the version; api/types.go: Metrics has a pointer, so 0 is sent too

ESCAPES_LITERALS = Feature("names and values in a `format` may have quotation marks and backslashes", "0.13.2")
# llama.cpp's json-schema-to-grammar as bundled; before, it takes them as they are

CALL_GRAMMAR = Feature(
    "`tools` and a `format` together: 400 for a model such as Qwen 3.8, whose calls have a grammar of their own",
    "0.30.0",
)
# 9db4bdbad: chatExecutionModeNative; ollama#17957, llama.cpp#27114

MLX_FORMAT = Feature("models in safetensors, which MLX runs, are held to `format`; before, they ignore it", "0.40.0")
# x/mlxrunner/client.go up to 0.33; pull request 17929, merged after it; no version between was read

UNTHINKING_FORMAT = Feature(
    "a chat with `think: false` ignores `format`, where a built-in parser reads the model's output", "0.12.4", "0.31.2"
)
# server/routes.go: ChatHandler, 77060d462; 892e7f6be mends it

FORMAT_IN_THINKING = Feature(
    "a prompt with `format`: its JSON is in `thinking` if the model thinks and a built-in parser reads its output",
    "0.12.6",
)
# server/routes.go: GenerateHandler, 6db8da995; HarperFast/harper#1805

# What is known of models and of the server.

PS_CONTEXT_LENGTH = Feature("`/api/ps`: `context_length`", "0.10.0")
# api/types.go: ProcessModelResponse

TAGS_CAPABILITIES = Feature("`/api/tags`: `capabilities`, the lengths of context and embedding", "0.30.0")
# api/types.go: ListModelResponse, ModelDetails

SHOW_THINKING = Feature("`/api/show`: `thinking` with its `values` and `default`", "0.40.0")
# as THINK_ANY_LEVEL

AUDIO = Feature('`/api/show`: the capability "audio", of models that take WAV among `images`', "0.20.0")
# types/model/capability.go, 96b202d34

AUDIO_MP3 = Feature("they take MP3 too", "0.30.0")
# llm/media.go: AudioFormat, 9db4bdbad; before, model/models/gemma4/model.go looks for WAV
SHOW_PARSER = Feature("`/api/show`: `parser`, the name of the built-in one that reads a model's output", "0.12.0")
# api/types.go: ShowResponse

STATUS = Feature("`/api/status`; a cloud that is switched off: 403", "0.16.2")
# server/routes.go, internal/cloud

ACCOUNT = Feature("`/api/me`", "0.12.0")
# server/routes.go: WhoamiHandler

WEB = Feature("`/api/experimental/web_search` and `web_fetch`", "0.18.0")
# server/routes.go, 61086083e

USAGE = Feature("`/api/usage`", "0.40.6")
# mann1x/cline v4.100.264

# Decision models.

SYSTEMONE = Feature("`/v1/systemone`: decision models", "0.35.0")
# docs/capabilities/decision.mdx

SYSTEMONE_IMAGES = Feature("`/v1/systemone`: `images`, for models that can see", "0.35.1")
# docs/capabilities/decision.mdx

SYSTEMONE_CLOUD = Feature("`/v1/systemone`: cloud models; before, 400", "0.40.5")
# docs.ollama.com/api/systemone; before, the test of SystemOneHandler

# Models that run in Ollama's cloud.

CLOUD = Feature("cloud models, which ignore `format`", "0.12.0")
# server/routes.go: RemoteHost; ollama#12362, PR 15733

REMOTE_NAMES = Feature("answers of cloud models name `remote_model` and `remote_host`", "0.12.0", "0.18.0")
# server/routes.go: ChatHandler; since 0.18.0 server/cloud_proxy.go hands the cloud's own answer on

CLOUD_WITHOUT_PULL = Feature("cloud models need no pull", "0.18.0")
# server/routes.go: modelSourceCloud

SIGNIN_URL = Feature("401 with `signin_url`", "0.12.1")
# api/types.go: AuthorizationError

# Errors.

NAMES_CHAT_MODEL = Feature("a chat with a model that it lacks: \"model 'm' not found\", as for a prompt", "0.12.0")
# server/routes.go: ChatHandler; before, handleScheduleError adds "try pulling it first"

NAMES_THINKING_MODEL = Feature("a model that cannot think is named in the error as it was asked for", "0.12.5")
# server/routes.go: ChatHandler, GenerateHandler; before, with its registry

LLAMA_SERVER = Feature("llama-server computes, and its JSON is the text of its errors", "0.30.0")
# 9db4bdbad; llm/llama_server.go: statusErrorMessage

REFUSES_MEDIA = Feature("400 for an image that the model cannot see; before, it takes no notice", "0.30.0")
# llm/llama_server.go: Completion; before, runner/ollamarunner/runner.go: inputs

# Inputs that are too long.

WINDOW_4096 = Feature("a window of 4,096 tokens where nothing is set; before, 2,048", "0.6.7")
# envconfig/config.go

SHIFT_REFUSES = Feature("`shift: false` refuses a prompt that is too long", "0.30.9")
# llm/llama_server.go

HALF_WINDOW = Feature("a prompt that is too long is cut to half of the window", "0.30.11")
# llm/llama_server.go: completionPromptForRequest, c191a145b

EMBED_WORDS = Feature('an embedding that is refused: "input exceeds maximum context length"', "0.12.0", "0.13.3")
# server/routes.go: EmbedHandler; "input length exceeds ..." before, "the input length exceeds the ..." after

EMBED_RUNNER_WORDS = Feature('an embedding that is refused: "the input length exceeds the context length"', "0.13.3")
# server/routes.go: EmbedHandler

FEATURES: Mapping[str, Feature] = {name: one for name, one in list(globals().items()) if isinstance(one, Feature)}
"""All of them by name, in the order above."""
