"""An Ollama server for tests: real HTTP on a loopback port, scripted answers, and faults on demand.

It speaks Ollama's API to any client, so you can test an application end to end, with its real client and no model:

>>> import json, urllib.request
>>> from namel3ss_ollama.testing import OllamaServer
>>> with OllamaServer() as server:
...     weather = server.reply("Rome is sunny.", model="llama3.2", contains="weather")
...     busy = server.fault("status", status=503, retry_after=0, times=1)
...     # the application runs here, with server.url as Ollama's address
...     ask = {"model": "llama3.2", "prompt": "The weather in Rome?", "stream": False}
...     for attempt in range(2):
...         try:
...             request = urllib.request.Request(server.url + "/api/generate", json.dumps(ask).encode())
...             print(json.load(urllib.request.urlopen(request))["response"])
...         except OSError as problem:
...             print(problem)
...     print([record.status for record in server.requests])
HTTP Error 503: Service Unavailable
Rome is sunny.
[503, 200]

Without a script it answers at once: the prompt's last words, JSON that matches the schema in `format`, vectors that
depend only on the text. A `Gate` can hold an answer after any token, so tests need no sleeps. `server.requests` records
everything received and sent; `server.wait_for` waits for a condition. `FAULTS` lists the faults. The pytest fixture
`ollama_server` is a server that runs for one test.
"""

from .answers import llama_server_error
from .faults import FAULTS, Fault, FaultInfo
from .gate import Gate
from .models import CAPABILITIES, DEFAULT_MODELS, Model, Models
from .record import Outcome, Record
from .replies import Reply, ToolCall
from .schema import minimal as minimal_instance
from .script import Rule
from .server import OllamaServer

__all__ = [
    "CAPABILITIES",
    "DEFAULT_MODELS",
    "FAULTS",
    "Fault",
    "FaultInfo",
    "Gate",
    "Model",
    "Models",
    "OllamaServer",
    "Outcome",
    "Record",
    "Reply",
    "Rule",
    "ToolCall",
    "llama_server_error",
    "minimal_instance",
]
