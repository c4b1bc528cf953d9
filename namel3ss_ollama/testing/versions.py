"""The features of Ollama's versions: one per line, with its first version and the source.

The test server uses this table wherever versions differ; `docs/compatibility.md` shows it. The versions are those of
releases whose source has the feature. Up to 0.33 they were read in the source, later ones in the documentation of
0.40.12, decision models in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from namel3ss_ollama.versions import at_least, numbers

__all__ = ["FEATURES", "Feature"]


class Feature(NamedTuple):
    """A feature of servers from version `since` (None: always) until before `until` (None: still)."""

    about: str
    since: str | None = None
    until: str | None = None

    def on(self, version: str) -> bool:
        """Whether a server of this version has it. An unreleased build (0.0.0) counts as newer than all releases."""
        if not any(numbers(version)):
            return self.until is None
        begun = self.since is None or at_least(version, self.since)
        return begun and (self.until is None or not at_least(version, self.until))


# Fields of a request. A server ignores unknown fields.

THINK_LEVELS = Feature('`think` can be "low", "medium", "high"; before, 400', "0.11.0")
# api/types.go: ThinkValue; before, Think is a *bool

THINK_MAX = Feature('`think` can be "max"', "0.22.0")
# api/types.go: ThinkValue.UnmarshalJSON

THINK_ANY_LEVEL = Feature("`think` can be any string; one that the model does not define means its default", "0.40.0")
# docs/capabilities/thinking of 0.40.12, pull request 18473; 0.33 refuses it; no version in between was read

THINKS_BY_DEFAULT = Feature("a thinking model thinks where `think` is not sent", "0.12.4")
# server/routes.go: ChatHandler

NUM_PREDICT_BOUND = Feature("an answer has at most ten windows of tokens, whatever `num_predict` says", "0.1.33")
# llm/server.go, 993cf8bf5; since 0.30 llm/llama_server.go: boundedNumPredict

TRUNCATE = Feature("`truncate: false` of a chat or a prompt", "0.12.6")
# api/types.go: ChatRequest, GenerateRequest

SHIFT = Feature("`shift: false`", "0.12.6")
# api/types.go: ChatRequest, GenerateRequest

SHIFT_LOADS = Feature("`shift` is a load setting: with another value, the model is reloaded", "0.30.0")
# server/sched.go: needsReload

LOGPROBS = Feature("`logprobs`, `top_logprobs` (more than 20: 400)", "0.12.11")
# api/types.go, server/routes.go

DIMENSIONS = Feature("`dimensions` of an embedding", "0.11.11")
# api/types.go: EmbedRequest

RENDER_ONLY = Feature("`_debug_render_only` answers with the rendered prompt", "0.11.5")
# api/types.go

NUMA = Feature("the option `numa`", until="0.3.4")
# api/types.go: Runner; fields in neither Options nor Runner are logged and ignored, whatever their type

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

# The parts of a tool's parameters that a model's template sees. Others are dropped: $ref, const, default, ...
# All versions keep a property's `type`, `items`, `description` and `enum`, and `$defs` next to the properties.

TOOL_ANY_OF = Feature("tools: a property keeps `anyOf`", "0.11.3")
# api/types.go: ToolProperty

TOOL_PROPERTIES = Feature("tools: a property keeps `properties`", "0.14.0")
# api/types.go: ToolProperty

TOOL_REQUIRED = Feature("tools: a property keeps `required`", "0.20.0")
# api/types.go: ToolProperty

# Fields of an answer.

TOOL_CALL_INDEX = Feature("each tool call has an `index`, including the first", "0.12.6")
# api/types.go: ToolCallFunction

TOOL_CALL_IDS = Feature("each tool call has an `id`", "0.12.10")
# server/routes.go: toolCallId

CACHED_COUNT = Feature("`prompt_eval_cached_count`, a part of `prompt_eval_count`", "0.33.3")
# openclaw#140222 names the version; api/types.go: Metrics has a pointer, so 0 is sent too

ESCAPES_LITERALS = Feature("names and values in a `format` may have quotation marks and backslashes", "0.13.2")
# llama.cpp's json-schema-to-grammar as bundled; before, they are not escaped

CALL_GRAMMAR = Feature(
    "`tools` and a `format` together: 400 for a model such as Qwen 3.8, whose calls have a grammar of their own",
    "0.30.0",
)
# 9db4bdbad: chatExecutionModeNative; ollama#17957, llama.cpp#27114

MLX_FORMAT = Feature("models in safetensors, which MLX runs, obey `format`; before, they ignore it", "0.40.0")
# x/mlxrunner/client.go up to 0.33; pull request 17929, merged after it; no version in between was read

UNTHINKING_FORMAT = Feature(
    "a chat with `think: false` ignores `format`, where a built-in parser reads the model's output", "0.12.4", "0.31.2"
)
# server/routes.go: ChatHandler, 77060d462; 892e7f6be fixes it

FORMAT_IN_THINKING = Feature(
    "a prompt with `format`: its JSON is in `thinking` if the model thinks and a built-in parser reads its output",
    "0.12.6",
)
# server/routes.go: GenerateHandler, 6db8da995; HarperFast/harper#1805

# Details of models and of the server.

PS_CONTEXT_LENGTH = Feature("`/api/ps`: `context_length`", "0.10.0")
# api/types.go: ProcessModelResponse

TAGS_CAPABILITIES = Feature("`/api/tags`: `capabilities`, the lengths of context and embedding", "0.30.0")
# api/types.go: ListModelResponse, ModelDetails

SHOW_THINKING = Feature("`/api/show`: `thinking` with its `values` and `default`", "0.40.0")
# as THINK_ANY_LEVEL

AUDIO = Feature('`/api/show`: the capability "audio", of models that take WAV among `images`', "0.20.0")
# types/model/capability.go, 96b202d34

AUDIO_MP3 = Feature("these models also take MP3", "0.30.0")
# llm/media.go: AudioFormat, 9db4bdbad; before, model/models/gemma4/model.go looks for WAV
SHOW_PARSER = Feature("`/api/show`: `parser`, the name of the built-in parser of a model's output", "0.12.0")
# api/types.go: ShowResponse

STATUS = Feature("`/api/status`; 403 if the cloud is disabled", "0.16.2")
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
# server/routes.go: ChatHandler; since 0.18.0 server/cloud_proxy.go passes the cloud's answer through

CLOUD_WITHOUT_PULL = Feature("cloud models need no pull", "0.18.0")
# server/routes.go: modelSourceCloud

SIGNIN_URL = Feature("401 with `signin_url`", "0.12.1")
# api/types.go: AuthorizationError

# Errors.

NAMES_CHAT_MODEL = Feature("a chat with a missing model: \"model 'm' not found\", as for a prompt", "0.12.0")
# server/routes.go: ChatHandler; before, handleScheduleError adds "try pulling it first"

NAMES_THINKING_MODEL = Feature("the error for a model that cannot think has its name as in the request", "0.12.5")
# server/routes.go: ChatHandler, GenerateHandler; before, with its registry

LLAMA_SERVER = Feature("llama-server runs the models, and the text of its errors is its JSON", "0.30.0")
# 9db4bdbad; llm/llama_server.go: statusErrorMessage

REFUSES_MEDIA = Feature("400 for an image if the model lacks vision; before, the image is ignored", "0.30.0")
# llm/llama_server.go: Completion; before, runner/ollamarunner/runner.go: inputs

# Inputs that are too long.

WINDOW_4096 = Feature("a default window of 4,096 tokens; before, 2,048", "0.6.7")
# envconfig/config.go

SHIFT_REFUSES = Feature("`shift: false` refuses a prompt that is too long", "0.30.9")
# llm/llama_server.go

HALF_WINDOW = Feature("a prompt that is too long is truncated to half of the window", "0.30.11")
# llm/llama_server.go: completionPromptForRequest, c191a145b

EMBED_WORDS = Feature(
    'the error for a text that is too long to embed: "input exceeds maximum context length"', "0.12.0", "0.13.3"
)
# server/routes.go: EmbedHandler; "input length exceeds ..." before, "the input length exceeds the ..." after

EMBED_RUNNER_WORDS = Feature(
    'the error for a text that is too long to embed: "the input length exceeds the context length"', "0.13.3"
)
# server/routes.go: EmbedHandler

FEATURES: Mapping[str, Feature] = {name: one for name, one in list(globals().items()) if isinstance(one, Feature)}
"""All features by name, in the order above."""
