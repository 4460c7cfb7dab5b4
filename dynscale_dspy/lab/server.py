"""An OpenAI-compatible HTTP endpoint for the model in the box, on the loopback interface only."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import threading
import time
import uuid
from types import TracebackType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dynscale_dspy.lab.engine import Completion, Engine, EngineClosedError, Sampling
from dynscale_dspy.lab.model import CHECKPOINT, CHECKPOINTS, Llama
from dynscale_dspy.lab.tokenizer import ROLES, ChatTokenizer

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MODEL_NAMES = {"large": "lab-arithmetic", "small": "lab-arithmetic-small"}
MAX_CHOICES = 128
MAX_STOPS = 4
MAX_TOP_LOGPROBS = 20
_CLIENT_CLOSED = 499


class RequestError(Exception):
    """A request the server refuses, told the way OpenAI's API tells it."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status

    def response(self) -> JSONResponse:
        """Return the error as a response."""
        return _error(self.status, str(self), self.param, self.code)


def _error(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


class ChatApp:
    """The endpoint's routes.

    Args:
        engine: Samples the replies.
        tokenizer: The engine's tokenizer.
        model_name: What requests must name as their model.
    """

    def __init__(self, engine: Engine, tokenizer: ChatTokenizer, model_name: str) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._model_name = model_name
        self._started = int(time.time())

    def build(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
            ],
            exception_handlers={HTTPException: self._unknown_route, RequestError: self._refused},
        )

    async def _unknown_route(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return _error(status, f"{request.method} {request.url.path} is not served here", code="unknown_url")

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return error.response()

    async def _models(self, request: Request) -> Response:
        model = {"id": self._model_name, "object": "model", "created": self._started, "owned_by": "dynscale_dspy"}
        return JSONResponse({"object": "list", "data": [model]})

    async def _health(self, request: Request) -> Response:
        running, waiting = self._engine.load()
        return JSONResponse({"status": "ok", "running": running, "waiting": waiting})

    async def _chat(self, request: Request) -> Response:
        fields = _Fields(await request.body())
        model = fields.text("model")
        if model != self._model_name:
            message = f"the model {model!r} does not exist; this server has {self._model_name!r}"
            raise RequestError(message, "model", "model_not_found", status=404)
        if fields.flag("stream", False):
            raise RequestError("stream is not supported by this server; leave it out or set it to false", "stream")
        n = fields.integer("n", 1, 1, MAX_CHOICES)
        with_logprobs = fields.flag("logprobs", False)
        sampling = _sampling(fields, with_logprobs)
        prompt = self._prompt(fields)

        try:
            future = self._engine.submit(prompt, sampling, n)
            answer = asyncio.ensure_future(asyncio.wrap_future(future))
            gone = asyncio.ensure_future(_disconnected(request))
            await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if not answer.done():
                answer.cancel()  # reaches the engine's future, and so frees the batch
                return Response(status_code=_CLIENT_CLOSED)
            completions = answer.result()
        except EngineClosedError as error:
            return _error(503, str(error))
        return JSONResponse(self._reply(prompt, completions, with_logprobs))

    def _prompt(self, fields: _Fields) -> list[int]:
        messages = _messages(fields)
        continue_last = fields.flag("continue_final_message", False)
        open_turn = fields.flag("add_generation_prompt", True)
        if continue_last and open_turn:
            raise RequestError(
                "continue_final_message needs add_generation_prompt to be false", "continue_final_message"
            )
        if continue_last and messages[-1][0] != "assistant":
            raise RequestError(
                "continue_final_message needs the last message to be the assistant's", "continue_final_message"
            )
        prompt = self._tokenizer.encode_chat(messages, open_turn, continue_last)
        if len(prompt) >= self._engine.context:
            raise RequestError(
                f"this model's maximum context length is {self._engine.context} tokens, "
                f"and the messages came to {len(prompt)} tokens",
                "messages",
                "context_length_exceeded",
            )
        return prompt

    def _reply(self, prompt: list[int], completions: list[Completion], with_logprobs: bool) -> dict[str, Any]:
        sampled = sum(completion.token_count for completion in completions)
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self._model_name,
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": completion.text},
                    "finish_reason": completion.finish_reason,
                    "logprobs": self._logprobs(completion) if with_logprobs else None,
                }
                for index, completion in enumerate(completions)
            ],
            "usage": {
                "prompt_tokens": len(prompt),
                "completion_tokens": sampled,
                "total_tokens": len(prompt) + sampled,
            },
        }

    def _logprobs(self, completion: Completion) -> dict[str, Any]:
        content = []
        for entry in completion.logprobs:
            top = [self._logprob(token, logprob) for token, logprob in entry.top]
            content.append({**self._logprob(entry.token, entry.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _logprob(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._tokenizer.bytes_of(token)
        # JSON has no infinity; this is OpenAI's own stand-in for a token that cannot be.
        return {"token": raw.decode("utf-8", errors="replace"), "logprob": max(logprob, -9999.0), "bytes": list(raw)}


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Fields:
    """The fields of a JSON body, read with checks. A null counts as left out, as it does in OpenAI's API."""

    def __init__(self, body: bytes) -> None:
        try:
            fields = json.loads(body)
            json.dumps(fields, ensure_ascii=False).encode()  # JSON can spell half of a surrogate pair
        except UnicodeEncodeError:
            raise RequestError("the body holds a string that is not valid Unicode") from None
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the body is not valid JSON: {error}") from None
        if not isinstance(fields, dict):
            raise RequestError("the body must be a JSON object")
        self._fields: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}

    def get(self, name: str) -> Any:
        return self._fields.get(name)

    def _checked(self, name: str, default: Any, allowed: bool, needs: str) -> Any:
        if name not in self._fields:
            return default
        if not allowed:
            raise RequestError(f"{name} must be {needs}, not {_shown(self._fields[name])}", name)
        return self._fields[name]

    def flag(self, name: str, default: bool) -> bool:
        return self._checked(name, default, isinstance(self.get(name), bool), "true or false")

    def text(self, name: str) -> str:
        if name not in self._fields:
            raise RequestError(f"{name} is required", name)
        return self._checked(name, None, isinstance(self.get(name), str), "a string")

    def integer(self, name: str, default: Any, low: int | None = None, high: int | None = None) -> Any:
        value = self.get(name)
        allowed = _is_integer(value) and (low is None or value >= low) and (high is None or value <= high)
        limits = f" of at least {low}" if high is None else f" from {low} to {high}"
        return self._checked(name, default, allowed, "an integer" + (limits if low is not None else ""))

    def number(self, name: str, default: float, allowed: Any, needs: str) -> float:
        value = self.get(name)
        is_number = (_is_integer(value) or isinstance(value, float)) and abs(value) < 1e9 and math.isfinite(value)
        return float(self._checked(name, default, is_number and allowed(value), needs))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _sampling(fields: _Fields, with_logprobs: bool) -> Sampling:
    top_logprobs = fields.integer("top_logprobs", 0, 0, MAX_TOP_LOGPROBS)
    if top_logprobs and not with_logprobs:
        raise RequestError("top_logprobs needs logprobs to be true", "top_logprobs")
    older_limit = fields.integer("max_tokens", None, 1)
    return Sampling(
        temperature=fields.number("temperature", 1.0, lambda value: value >= 0, "a number of at least 0"),
        top_p=fields.number("top_p", 1.0, lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
        max_tokens=fields.integer("max_completion_tokens", older_limit, 1),
        stop=_stops(fields.get("stop")),
        seed=fields.integer("seed", None),
        top_logprobs=top_logprobs,
    )


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise RequestError("stop must be a non-empty string or a list of them", "stop")
    if len(stops) > MAX_STOPS:
        raise RequestError(f"stop may hold at most {MAX_STOPS} strings, not {len(stops)}", "stop")
    return tuple(stops)


def _messages(fields: _Fields) -> list[tuple[str, str]]:
    messages = fields.get("messages")
    if messages is None:
        raise RequestError("messages is required", "messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a non-empty list", "messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: Any, where: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise RequestError(f"{where} must be an object, not {_shown(message)}", where)
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise RequestError(f"{where}.role must be one of {', '.join(ROLES)}, not {_shown(role)}", f"{where}.role")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(_is_text_part(part) for part in parts):
        raise RequestError(f"{where}.content must be a string or a list of text parts", f"{where}.content")
    return role, "".join(part["text"] for part in parts)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


class LabServer:
    """A model in the box behind an OpenAI-compatible endpoint, run in background threads of this process.

    Use it as a context manager, or call `start` and `stop`.

    Args:
        host: A loopback address. No other is accepted: there is no authentication.
        port: 0 takes a free port.
        batch_size: How many replies are sampled side by side.
        model_name: What requests must name as their model; "lab-arithmetic" or "lab-arithmetic-small" by default.
        model: Which of the two models, "large" or "small".

    Raises:
        ValueError: `host` is not a loopback address, or `model` is unknown.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        batch_size: int = 64,
        model_name: str | None = None,
        *,
        model: str = "large",
    ) -> None:
        if host not in LOOPBACK:
            raise ValueError(f"the lab server binds to a loopback address only ({', '.join(LOOPBACK)}), not {host!r}")
        if model not in CHECKPOINTS:
            raise ValueError(f"model must be one of {', '.join(map(repr, CHECKPOINTS))}, got {model!r}")
        self.model_name = model_name or MODEL_NAMES[model]
        self._model = model
        self._host = host
        self._port = port
        self._batch_size = batch_size
        self._running: _Running | None = None

    @property
    def url(self) -> str:
        """The base URL to give to clients, which ends in /v1."""
        if self._running is None:
            raise RuntimeError("the lab server is not running: call start() or use it in a with statement")
        return self._running.url

    def start(self) -> LabServer:
        """Start serving and return once requests are answered."""
        if self._running is not None:
            raise RuntimeError("the lab server is already running")
        self._running = _Running(self._host, self._port, self._batch_size, self.model_name, self._model)
        return self

    def stop(self) -> None:
        """Stop serving. Requests under way are answered with status 503."""
        running, self._running = self._running, None
        if running is not None:
            running.close()

    def __enter__(self) -> LabServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Running:
    """What a started server holds: its socket, its engine and the thread of its event loop."""

    def __init__(self, host: str, port: int, batch_size: int, model_name: str, model: str) -> None:
        # Only of a socket whose protocol is spelt out does asyncio know that it is TCP and send at once (TCP_NODELAY);
        # without, every reply waits 40 ms for the acknowledgement of its own headers.
        family = socket.AF_INET6 if host == "::1" else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        address = "[::1]" if host == "::1" else "127.0.0.1"
        self.url = f"http://{address}:{self._socket.getsockname()[1]}/v1"

        tokenizer = ChatTokenizer(CHECKPOINT / "tokenizer.json")
        self._engine = Engine(Llama.load(CHECKPOINTS[model]), tokenizer, batch_size)
        app = ChatApp(self._engine, tokenizer, model_name).build()
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=600,  # longer than clients pool idle connections: none is closed as it is being reused
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="dynscale-lab-server", daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                self.close()
                raise RuntimeError("the lab server did not start")
            time.sleep(0.005)

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def close(self) -> None:
        self._engine.close()  # first, so that the requests under way are answered
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
