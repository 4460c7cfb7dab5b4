"""A server on loopback that answers with labels and tells their probabilities, well or badly."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dspy

FRAMES = {
    "chat": ("[[ ## topic ## ]]\n", "\n\n[[ ## completed ## ]]"),
    "json": ('{"topic": "', '"}'),
    "xml": ("<topic>\n", "\n</topic>"),
    "explained": ("[[ ## topic ## ]]\n", "\n\n[[ ## why ## ]]\nSo it is.\n\n[[ ## completed ## ]]"),
    "reasoned": ("[[ ## reasoning ## ]]\nNo Sports.\n\n[[ ## topic ## ]]\n", "\n\n[[ ## completed ## ]]"),
}


class LabelServer:
    """Draws the k-th reply from the distribution; the most probable one at temperature 0.

    Args:
        shares: The probability of each label; or a function that tells them, given what a request asks.
        frame: The name of the framing of replies.
        spoil: Changes what is told of tokens, given it in OpenAI's shape.
        refuse: The status and body with which a request is refused, given what it asks; None to answer it.
    """

    def __init__(
        self,
        shares: Mapping[str, float] | Callable[[dict[str, Any]], Mapping[str, float]],
        frame: str = "chat",
        *,
        spoil: Callable[[Any], Any] = lambda told: told,
        refuse: Callable[[dict[str, Any]], tuple[int, Any] | None] = lambda request: None,
    ) -> None:
        self.shares = shares
        self.frame = frame
        self.spoil = spoil
        self.refuse = refuse
        self.requests: list[dict[str, Any]] = []
        """The bodies of all requests."""
        self.written = 3
        """The tokens of a reply, as it says itself."""
        self._drawn = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                status, body = outer.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> LabelServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def lm(self, engine: str = "auto", **options: Any) -> dspy.LM:
        """The server as DSPy takes it."""
        url = f"http://127.0.0.1:{self._server.server_port}/v1"
        options = {"cache": False, "num_retries": 0, "api_key": "none", **options}
        return dspy.LM("openai/labels", api_base=url, engine=engine, **options)

    def answer(self, request: dict[str, Any]) -> tuple[int, Any]:
        """The status and body of the reply to a request."""
        with self._lock:
            self.requests.append(request)
            number, self._drawn = self._drawn, self._drawn + (request.get("n") or 1)
        refused = self.refuse(request)
        if refused is not None:
            return refused
        choices = [self._choice(request, number + k, k) for k in range(request.get("n") or 1)]
        usage = {"prompt_tokens": 9, "completion_tokens": self.written, "total_tokens": 9 + self.written}
        head = {"id": f"reply-{number}", "object": "chat.completion", "created": 0, "model": "labels"}
        return 200, {**head, "choices": choices, "usage": usage}

    def _choice(self, request: dict[str, Any], number: int, index: int) -> dict[str, Any]:
        shares = self.shares(request) if callable(self.shares) else self.shares
        ranked = sorted(shares, key=lambda label: -shares[label])
        said = ranked[0] if request.get("temperature") == 0 else ranked[number % len(ranked)]
        before, after = FRAMES[self.frame]
        told = None
        if request.get("logprobs"):
            top = [_entry(label, shares[label]) for label in ranked][: request.get("top_logprobs") or 0]
            content = [
                _entry(before, 1.0),
                {**_entry(said, shares[said]), "top_logprobs": top},
                _entry(after, 1.0),
            ]
            told = self.spoil({"content": content, "refusal": None})
        message = {"role": "assistant", "content": before + said + after}
        return {"index": index, "finish_reason": "stop", "message": message, "logprobs": told}


def _entry(text: str, probability: float) -> dict[str, Any]:
    return {"token": text, "logprob": math.log(probability), "bytes": list(text.encode()), "top_logprobs": []}
