"""A server that speaks S3, in a thread of this process, with a bucket in it: moto's."""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BUCKET = "bucket"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
}  # fmt: skip


@contextmanager
def s3_server() -> Iterator[str]:
    """Yields a URL to which names of folders in the bucket are joined by `at`; skips the test where moto is not."""
    module = pytest.importorskip("moto.moto_server.threaded_moto_server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in KEYS.items():
                patch.setenv(name, value)
            make = urllib.request.Request(f"http://{host}:{port}/{BUCKET}", method="PUT")
            with urllib.request.urlopen(make) as answer:
                assert answer.status == 200
            yield f"endpoint_override={host}:{port}&scheme=http"
    finally:
        server.stop()


def at(folder: str, options: str) -> str:
    """The URL of a folder of the bucket."""
    return f"s3://{BUCKET}/{folder}?{options}"
