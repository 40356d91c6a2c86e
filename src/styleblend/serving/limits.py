"""What a stranger may ask of the server: so many bytes, within such a time. Nothing of a request is believed."""

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


class _TooMuch(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class LimitedBody:
    """An ASGI application whose requests end when their body is too large or comes too slowly.

    The body is counted as it arrives: the length that a client states may be wrong, or missing.
    """

    def __init__(self, app: App, max_bytes: int, seconds: float) -> None:
        self.app, self.max_bytes, self.seconds = app, max_bytes, seconds

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self.seconds
        received, whole, answered = 0, False, False
        refusal: _TooMuch | None = None

        async def limited() -> Message:
            nonlocal received, whole, refusal
            if whole:
                # The body is there; what may come now is only the news that the client has gone.
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                refusal = _TooMuch(408, f"the pictures did not arrive within {self.seconds:g} s")
                raise refusal from None
            received += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if received > self.max_bytes:
                refusal = _TooMuch(413, f"a request may have {self.max_bytes} bytes: send smaller pictures")
                raise refusal
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            # Who reads the body may take our exception for a mistake in it and say that: the true reason is said below.
            if refusal is None:
                answered = True
                await send(message)

        stated = _stated_length(scope)
        if stated is not None and stated > self.max_bytes:
            refusal = _TooMuch(413, f"a request may have {self.max_bytes} bytes, not {stated}: send smaller pictures")
        else:
            with contextlib.suppress(_TooMuch):
                await self.app(scope, limited, watched)
        if refusal is not None and not answered:
            await _refuse(send, refusal)


def _stated_length(scope: Message) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None


async def _refuse(send: Send, error: _TooMuch) -> None:
    body = json.dumps({"detail": error.reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
