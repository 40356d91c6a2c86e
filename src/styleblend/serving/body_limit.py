"""ASGI middleware that limits the size of a request's body and the time in which it arrives."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class _BodyRefused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class BodyLimit:
    """Answers 413 where a body is too large and 408 where it arrives too slowly.

    Bytes are counted as they arrive: the content length that a client states may be wrong or missing.
    """

    def __init__(self, app: App, max_bytes: int, seconds: float) -> None:
        self.app, self.max_bytes, self.seconds = app, max_bytes, seconds

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self.seconds
        received, whole, answered = 0, False, False
        refusal: _BodyRefused | None = None

        async def limited() -> Message:
            nonlocal received, whole, refusal
            if whole:
                # The body is complete; all that can follow is that the client disconnects.
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                refusal = _BodyRefused(408, f"the pictures did not arrive within {self.seconds:g} s")
                raise refusal from None
            received += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if received > self.max_bytes:
                refusal = _BodyRefused(413, f"a request may have {self.max_bytes} bytes: send smaller pictures")
                raise refusal
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            # The parser of the form may answer our exception as a malformed body; the refusal below replaces that.
            if refusal is None:
                answered = True
                await send(message)

        lengths = (value for name, value in scope["headers"] if name == b"content-length" and value.isdigit())
        stated = int(next(lengths, 0))
        if stated > self.max_bytes:
            reason = f"a request may have {self.max_bytes} bytes, not {stated}: send smaller pictures"
            refusal = _BodyRefused(413, reason)
        else:
            with contextlib.suppress(_BodyRefused):
                await self.app(scope, limited, watched)
        if refusal is not None and not answered:
            await _refuse(send, refusal)


async def _refuse(send: Send, error: _BodyRefused) -> None:
    body = json.dumps({"detail": error.reason}).encode()
    size = str(len(body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", size), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
