"""A scripted model behind an OpenAI-compatible endpoint on loopback, fluent in the format of every DSPy adapter.

What it says depends on the output fields it is asked for and on the prompt alone: the second time it gets exactly the
same prompt it says something wrong, every other time the right thing. So of two independent samples one is wrong, the
third, which has seen them, is right, and the vote comes out right whatever the order in which requests arrive.
"""

from __future__ import annotations

import http.server
import inspect
import json
import re
import threading
from collections import Counter
from typing import Any

import dspy

RIGHT: dict[str, Any] = {
    "answer": "Paris",
    "label": "yes",
    "kind": "city",
    "sure": True,
    "score": 7,
    "tags": ["big", "old"],
    "prices": {"tea": 2, "cake": 5},
    "place": {"name": "Paris", "people": 2000000},
    "search_query": "capital of France",
    "advice": {"predict": "Think of rivers."},
}
WRONG: dict[str, Any] = {
    **RIGHT,
    "answer": "Lyon",
    "label": "no",
    "kind": "river",
    "sure": False,
    "score": 3,
    "tags": ["small"],
    "prices": {"tea": 3},
    "place": {"name": "Lyon", "people": 500000},
    "search_query": "largest city of France",
}

_CHAT = re.compile(r"Respond with the corresponding output fields, starting with the field (.*)", re.DOTALL)
_CHAT_FIELD = re.compile(r"`\[\[ ## (\w+) ## \]\]`")
_JSON = re.compile(r"Respond with a JSON object in the following order of fields: (.*)", re.DOTALL)
_JSON_FIELD = re.compile(r"`(\w+)`(?: \(|,|\.|$)")
_XML = re.compile(r"output fields wrapped in XML tags (.*)", re.DOTALL)
_XML_FIELD = re.compile(r"`<(\w+)>`")
_PROSE = "After some thought I would say:"
_TWO_STEP = re.compile(r"You should lay out your outputs in detail")
CONDITIONED = re.compile(
    r"\[\[ ## earlier_attempts_* ## \]\]\n(?!N/A)|<earlier_attempts_*>\n(?!N/A)|earlier_attempts: A"
)


class ModelServer:
    """Counts what it is asked and answers it.

    Attributes:
        requests: Bodies of all requests since the last :meth:`reset`.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"model": self})
        self._http = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def reset(self) -> None:
        with self._lock:
            self.requests = []
            self._seen = Counter()

    @property
    def texts(self) -> list[str]:
        """What the model was shown, request by request."""
        return [_text(request) for request in self.requests]

    @property
    def conditioned(self) -> int:
        """Requests that showed earlier attempts."""
        return sum(bool(CONDITIONED.search(text)) for text in self.texts)

    def lm(self, engine: str = "auto", model: str = "openai/gpt-4o-mini", **options: Any) -> dspy.LM:
        """This model as DSPy takes it. Before DSPy 3.4 there is only the LiteLLM engine."""
        if "engine" in inspect.signature(dspy.LM.__init__).parameters:
            options["engine"] = engine
        defaults = {"api_key": "local", "cache": False, "num_retries": 0, "temperature": 1.0}
        return dspy.LM(model, api_base=self.url, **{**defaults, **options})

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The message that answers a request."""
        text = _text(request)
        key = json.dumps([request["messages"], request.get("tools")], sort_keys=True)
        with self._lock:
            self.requests.append(request)
            number = self._seen[key]
            self._seen[key] += 1
            total = len(self.requests)
        wrong = "Lyon" in text if _PROSE in text else number == 1
        values = _Values(text, WRONG if wrong else RIGHT, total)
        message: dict[str, Any] = {"role": "assistant", "content": _frame(request, text, values)}
        if request.get("tools"):
            call = _tool_call(text, request, values)
            arguments = json.dumps(call["args"])
            message["tool_calls"] = [
                {"id": f"call_{number}", "type": "function", "function": {"name": call["name"], "arguments": arguments}}
            ]
        if re.search(r"/?o\d-mini", request["model"]):
            message["reasoning_content"] = values["reasoning"]
        return message


class _Values:
    """A value for every output field there is."""

    def __init__(self, text: str, table: dict[str, Any], number: int) -> None:
        self._text = text
        self._table = table
        self._number = number

    @property
    def looked(self) -> bool:
        """Whether a tool has been used already."""
        return "observation_0" in self._text or "found: " in self._text

    def __getitem__(self, name: str) -> Any:
        if name in self._table:
            return self._table[name]
        if name == "next_tool_name":
            return "finish" if self.looked else "search"
        if name == "next_tool_args":
            return {} if self.looked else {"query": self._table["search_query"]}
        if name == "tool_calls":
            return {"tool_calls": [_tool_call(self._text, {}, self)]}
        if name == "generated_code":
            return f"print({self._table['answer']!r})"
        if name == "code":
            return (
                "SUBMIT(answer=look_up(query=question))"
                if "look_up" in self._text
                else f"SUBMIT(answer={self._table['answer']!r})"
            )
        if name == "finished":
            return True
        return f"{name} {self._number}, tried out."  # reasoning and the like: never twice the same


def _tool_call(text: str, request: dict[str, Any], values: _Values) -> dict[str, Any]:
    forced = isinstance(request.get("tool_choice"), dict)
    if forced or values.looked:
        return {"name": "submit", "args": {"answer": values["answer"]}}
    return {"name": "search", "args": {"query": values["search_query"]}}


def _frame(request: dict[str, Any], text: str, values: _Values) -> str:
    last = _content(request["messages"][-1])
    schema = ((request.get("response_format") or {}).get("json_schema") or {}).get("schema")
    if schema:
        return json.dumps({name: _shaped(values[name], part, schema) for name, part in schema["properties"].items()})
    if found := _CHAT.search(last):
        names = [name for name in _CHAT_FIELD.findall(found[1]) if name != "completed"]
        blocks = [f"[[ ## {name} ## ]]\n{_plain(values[name])}" for name in names]
        return "\n\n".join([*blocks, "[[ ## completed ## ]]"])
    if found := _JSON.search(last):
        return json.dumps({name: values[name] for name in _JSON_FIELD.findall(found[1])})
    if found := _XML.search(last):
        nested = "nested XML structure" in last
        names = _XML_FIELD.findall(found[1])
        return "\n".join(f"<{name}>\n{_xml(values[name], nested)}\n</{name}>" for name in names)
    if _TWO_STEP.search(text):
        found = "found: it" if values.looked else "I would look it up"
        return f"{_PROSE} {values['answer']}, {values['label']}; {found}; {values['reasoning']}"
    return f"{values['answer']}"


def _shaped(value: Any, part: dict[str, Any], schema: dict[str, Any]) -> Any:
    """A plain value where the schema wants an object with one: DSPy's Reasoning."""
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]]
    if part.get("type") == "object" and list(part.get("properties", {})) == ["content"]:
        return {"content": value}
    return value


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _xml(value: Any, nested: bool) -> str:
    if nested and isinstance(value, list):
        return "".join(f"<item>{_xml(item, nested)}</item>" for item in value)
    if nested and isinstance(value, dict) and set(value) == {"name", "people"}:
        return "".join(f"<{name}>{_xml(item, nested)}</{name}>" for name, item in value.items())
    return _plain(value)


def _text(request: dict[str, Any]) -> str:
    return "\n".join(_content(message) for message in request["messages"])


def _content(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):
        return "\n".join(part.get("text") or "" for part in content)
    return content


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # the standard 5 resets connections when many samples knock at once

    def handle_error(self, *arguments: Any) -> None:
        """A client that goes away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    model: ModelServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = self.model.answer(request)
        body = {
            "id": "chatcmpl-0",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [
                {"index": 0, "message": message, "finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
            ],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }
        payload = json.dumps(body).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
        self.wfile.write(head.encode() + payload)
