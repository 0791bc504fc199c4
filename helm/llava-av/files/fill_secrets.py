"""Fill in missing keys: `fill_secrets.py '{"SECRET": {"KEY": {"bytes": 20}, "NAME": {"value": "me"}}}'`.

`bytes` generates a random value, `value` sets a fixed one, and `{"copy": "OTHER"}` copies the value of the
same key from the Secret OTHER. Existing values are kept. The pod's account needs the verbs get and patch on
the Secrets.
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
    # Secrets with copies come last, after the Secrets that they copy from.
    plan = sorted(json.loads(sys.argv[1]).items(), key=lambda one: "copy" in str(one[1]))
    for secret, keys in plan:
        filled = fill(secret, keys)
        print(f"{secret}: {', '.join(filled) if filled else 'complete'}")


def fill(secret: str, keys: dict[str, Any]) -> list[str]:
    """Fill in the keys of a Secret that have no value, and return their names."""
    for _ in range(ATTEMPTS):
        found = call("GET", secret)
        missing = [key for key in keys if not found.get("data", {}).get(key)]
        if not missing:
            return []
        # The version makes the patch fail if another process changed the Secret in the meantime.
        version = {"resourceVersion": found["metadata"]["resourceVersion"]}
        values = {key: encoded(key, keys[key]) for key in missing}
        try:
            call("PATCH", secret, {"metadata": version, "data": values})
        except urllib.error.HTTPError as error:
            if error.code == 409:
                continue
            raise
        return missing
    raise SystemExit(f"Secret {secret}: {ATTEMPTS} patches conflicted with other changes; retry")


def encoded(key: str, wanted: dict[str, Any]) -> str:
    """Return the base64-encoded value of a key."""
    if "copy" in wanted:
        return str(call("GET", wanted["copy"])["data"][key])
    value = wanted["value"] if "value" in wanted else secrets.token_hex(wanted["bytes"])
    return base64.b64encode(value.encode()).decode()


def call(method: str, secret: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send a request to the API server and return its answer."""
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
