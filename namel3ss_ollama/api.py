"""Every public name of `namel3ss_ollama`, which imports this module on first use."""

from namel3ss_ollama._version import __version__
from namel3ss_ollama.batches import BatchReport
from namel3ss_ollama.blocking import SyncIterator
from namel3ss_ollama.counting import TokenCount
from namel3ss_ollama.errors import (
    AuthenticationError,
    BadRequestError,
    ContextWindowExceededError,
    JournalError,
    LLMConnectionError,
    LLMError,
    LLMTimeoutError,
    MalformedResponseError,
    ModelNotFoundError,
    OutputValidationError,
    QueueFullError,
    QuotaExceededError,
    ServerBusyError,
    ServerError,
    StreamInterruptedError,
    ToolCallParseError,
)
from namel3ss_ollama.fetching import fetch_audio, fetch_image
from namel3ss_ollama.hosts import Host, Hosts, HostState
from namel3ss_ollama.journal import Journal, Known, RowStore
from namel3ss_ollama.journal import read_rows as read_journal
from namel3ss_ollama.measuring import TuneProgress
from namel3ss_ollama.media import Audio, Image
from namel3ss_ollama.messages import name_tool_answers
from namel3ss_ollama.preflight import Preflight, Problem
from namel3ss_ollama.progress import BatchProgress, HostShare
from namel3ss_ollama.provider import OllamaProvider, SyncProvider
from namel3ss_ollama.questions import (
    ChoiceAnswer,
    ChoiceQuestion,
    NoulAnswer,
    NoulQuestion,
    ScoreAnswer,
    ScoreQuestion,
    SystemOneResponse,
)
from namel3ss_ollama.reasoning import json_in
from namel3ss_ollama.retrier import instant_retries
from namel3ss_ollama.rows import BatchFailure, BatchRow, Outcome, RowId
from namel3ss_ollama.settings import CallOptions, RetryPolicy, RuntimeOptions, StreamConfig
from namel3ss_ollama.stream import Stream
from namel3ss_ollama.sync import SyncStream
from namel3ss_ollama.sync import run as run_sync
from namel3ss_ollama.telemetry import HostStats, Stats
from namel3ss_ollama.tuning import AtOnce, Recommendation, Tuning, WindowCost
from namel3ss_ollama.types import (
    EmbedResponse,
    InvalidToolCall,
    LLMResponse,
    Message,
    StreamChunk,
    ToolCall,
    Usage,
)
from namel3ss_ollama.web import SearchResult, WebPage

__all__ = [
    "AtOnce",
    "Audio",
    "AuthenticationError",
    "BadRequestError",
    "BatchFailure",
    "BatchProgress",
    "BatchReport",
    "BatchRow",
    "CallOptions",
    "ChoiceAnswer",
    "ChoiceQuestion",
    "ContextWindowExceededError",
    "EmbedResponse",
    "Host",
    "HostShare",
    "HostState",
    "HostStats",
    "Hosts",
    "Image",
    "Journal",
    "InvalidToolCall",
    "JournalError",
    "Known",
    "LLMConnectionError",
    "LLMError",
    "LLMResponse",
    "LLMTimeoutError",
    "MalformedResponseError",
    "Message",
    "ModelNotFoundError",
    "NoulAnswer",
    "NoulQuestion",
    "OllamaProvider",
    "Outcome",
    "OutputValidationError",
    "Preflight",
    "Problem",
    "QueueFullError",
    "QuotaExceededError",
    "Recommendation",
    "RetryPolicy",
    "RowId",
    "RowStore",
    "RuntimeOptions",
    "ScoreAnswer",
    "ScoreQuestion",
    "SearchResult",
    "ServerBusyError",
    "ServerError",
    "Stats",
    "Stream",
    "StreamChunk",
    "StreamConfig",
    "StreamInterruptedError",
    "SyncIterator",
    "SyncProvider",
    "SyncStream",
    "SystemOneResponse",
    "TokenCount",
    "ToolCall",
    "ToolCallParseError",
    "TuneProgress",
    "Tuning",
    "Usage",
    "WebPage",
    "WindowCost",
    "__version__",
    "fetch_audio",
    "fetch_image",
    "instant_retries",
    "json_in",
    "name_tool_answers",
    "read_journal",
    "run_sync",
]
