"""ASGI middleware that answers HEAD as GET, without the body: what watches a server often asks so."""

from __future__ import annotations

from styleblend.serving.body_limit import App, Message, Receive, Send


class HeadAsGet:
    """Answers HEAD with the status and headers of GET, for every address."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self.app({**scope, "method": "GET"}, receive, without_body)
