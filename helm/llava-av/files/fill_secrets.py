"""Fill in what Secrets lack: `fill_secrets.py '{"SECRET": {"KEY": {"bytes": 20}, "NAME": {"value": "me"}}}'`.

`{"copy": "OTHER"}` takes the value that the Secret OTHER has under the same key. Runs in a pod whose account
may get and patch these Secrets. A key that has a value keeps it.
"""

import base64
import json
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ATTEMPTS = 5


def main() -> None:
    # Those with copies come last: what they copy is filled in by then.
    plan = sorted(json.loads(sys.argv[1]).items(), key=lambda one: "copy" in str(one[1]))
    for secret, keys in plan:
        filled = fill(secret, keys)
        print(f"{secret}: {', '.join(filled) if filled else 'has everything'}")


def fill(secret: str, keys: dict[str, Any]) -> list[str]:
    """Fill in the keys of one Secret that have no value; their names."""
    for _ in range(ATTEMPTS):
        found = call("GET", secret)
        missing = [key for key in keys if not found.get("data", {}).get(key)]
        if not missing:
            return []
        # With the version that was read: whoever fills it in at the same time makes this one fail.
        version = {"resourceVersion": found["metadata"]["resourceVersion"]}
        values = {key: encoded(key, keys[key]) for key in missing}
        try:
            call("PATCH", secret, {"metadata": version, "data": values})
        except urllib.error.HTTPError as error:
            if error.code == 409:
                continue
            raise
        return missing
    raise SystemExit(f"{secret}: changed by others {ATTEMPTS} times while it was filled in")


def encoded(key: str, wanted: dict[str, Any]) -> str:
    """The value of a key as a Secret holds it."""
    if "copy" in wanted:
        return str(call("GET", wanted["copy"])["data"][key])
    value = wanted["value"] if "value" in wanted else secrets.token_hex(wanted["bytes"])
    return base64.b64encode(value.encode()).decode()


def call(method: str, secret: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the API server."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    address = f"https://{host}:{port}/api/v1/namespaces/{os.environ['NAMESPACE']}/secrets/{secret}"
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"}
    headers["Content-Type"] = "application/merge-patch+json"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, headers, method=method)
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=30, context=trust) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


if __name__ == "__main__":
    main()
