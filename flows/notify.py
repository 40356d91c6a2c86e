"""Notifications: a line in a file, a message to a webhook where one is named, and which versions had one already."""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

from styleblend.errors import StyleBlendError, TransientError
from styleblend.system.files import whole_file

_TIMEOUT_S = 20
_NAMED = re.compile(r"\$\{(\w+)\}")
_MAY_PASS = {408, 425, 429}


def write(file: Path, text: str) -> None:
    """Add a line with the time to the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        stream.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")


def expanded(webhook: str) -> str:
    """The address with each ${NAME} replaced by the environment's value. It may hold a secret: show it to nobody.

    Raises:
        StyleBlendError: a name is not set, or what results is no http address. The message shows no value.
    """
    missing = [name for name in _NAMED.findall(webhook) if name not in os.environ]
    if missing:
        raise StyleBlendError(f"retrain.webhook names ${{{missing[0]}}}, which is not set: set it where the flow runs")
    url = _NAMED.sub(lambda match: os.environ[match[1]], webhook)
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise StyleBlendError("retrain.webhook is no http address once its names are filled in: correct it")
    return url


def send(webhook: str, text: str) -> None:
    """Post {"text": text} as JSON, which Slack, Mattermost and many others understand.

    Raises:
        TransientError: nobody answered, or the answer was that it may work later.
        StyleBlendError: the address is wrong, or refuses the message.
    """
    url = expanded(webhook)
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        error.close()
        kind = TransientError if error.code >= 500 or error.code in _MAY_PASS else StyleBlendError
        raise kind(f"retrain.webhook answered {error.code}: see that its address is right") from None
    except (OSError, http.client.HTTPException) as error:
        # Only the kind of error: its words may quote the address.
        cause = getattr(error, "reason", error)
        raise TransientError(f"retrain.webhook could not be reached ({type(cause).__name__})") from None


def registered(project: Path) -> dict[str, Any]:
    """The content of reports/registered.json, which the stage `register` writes; empty before its first run."""
    file = project / "reports" / "registered.json"
    content: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return content


def begin(project: Path) -> None:
    """Before a project's first run: a version that was registered by hand before is not that run's news."""
    if not _memory(project).exists():
        _remember(project, [registered(project)])


def is_new(project: Path) -> bool:
    """Whether the registered version has had no notification yet.

    So it is with that of a run that was killed after it registered, and not with one that came out of DVC's cache.
    """
    return registered(project) not in json.loads(_memory(project).read_text())


def mark_notified(project: Path) -> None:
    """Remember that the registered version has had its notification."""
    if is_new(project):
        _remember(project, [*json.loads(_memory(project).read_text()), registered(project)])


def _remember(project: Path, versions: list[dict[str, Any]]) -> None:
    with whole_file(_memory(project)) as partial:
        partial.write_text(json.dumps(versions))


def _memory(project: Path) -> Path:
    return project / ".state" / "retrain" / "notified.json"
