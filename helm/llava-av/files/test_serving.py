"""`helm test` of the server: ask about an image with and without the key. Reads SERVING_URL and API_KEYS."""

import base64
import json
import os
import struct
import urllib.error
import urllib.request
import zlib
from typing import Any

SIZE = 32


def main() -> None:
    lines = map(str.strip, os.environ["API_KEYS"].split("\n"))
    key = next(line for line in lines if line and not line.startswith("#"))
    status, _ = call("models", None)
    assert status == 401, f"a request without a key was answered with {status}"
    status, models = call("models", key)
    assert status == 200, models
    name = models["data"][0]["id"]
    image = "data:image/png;base64," + base64.b64encode(red_image()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": image}},
        {"type": "text", "text": "Which colour is shown?"},
    ]
    body = {"model": name, "max_tokens": 16, "messages": [{"role": "user", "content": content}]}
    status, answer = call("chat/completions", key, body)
    assert status == 200, answer
    reply = answer["choices"][0]["message"]["content"]
    print(f"{answer['system_fingerprint']} says about a red image: {reply!r}", flush=True)


def call(path: str, key: str | None, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Send a request and return the status and content of its answer."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{os.environ['SERVING_URL']}/v1/{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def red_image() -> bytes:
    """Return a PNG file."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\xff\0\0" * SIZE) * SIZE
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


if __name__ == "__main__":
    main()
