"""Keys with fewer rights that expire, from a server's STS (security token service) as MinIO has it."""

import json
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import urllib3
from minio.credentials.providers import AssumeRoleProvider

from llava_av.redaction import redact_line
from llava_av.storage.access_keys import Keys
from llava_av.storage.retrying import retry
from llava_av.storage.store_errors import StoreError, store_failures
from llava_av.storage.store_settings import StoreSettings
from llava_av.storage.transport import WholePool

__all__ = ["session_keys"]

# SeaweedFS answers 503 as long as no STS is set up, which would be asked for minutes.
_RETRY_S = 60.0
_BUSY = (408, 429)
_MISSING = (404, 405, 501)


def session_keys(settings: StoreSettings, policy: Mapping[str, object], duration_s: int) -> Keys:
    """Ask for keys that may do what both the keys of `settings` and `policy` allow.

    Args:
        settings: The server, with keys that do not expire themselves.
        policy: Allowed actions in AWS's language.
        duration_s: Seconds after which they expire; an hour at least.

    Raises:
        StoreError: No keys are configured, or the server has no STS or refuses.
    """
    endpoint = settings.sts_endpoint or settings.endpoint
    if settings.access_key is None or settings.secret_key is None:
        raise StoreError("session keys need AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, not an identity")
    provider = AssumeRoleProvider(
        sts_endpoint=endpoint,
        access_key=settings.access_key,
        secret_key=settings.secret_key,
        duration_seconds=duration_s,
        policy=json.dumps(policy, separators=(",", ":")),
        region=settings.region,
        http_client=_Answers(settings.stall_s, 1),
    )

    def attempt() -> Keys:
        with store_failures(endpoint, settings.bucket):
            try:
                found = provider.retrieve()
            except ValueError as error:
                raise _no_sts(endpoint, redact_line(str(error))) from error
        return Keys(
            access_key=found.access_key, secret_key=found.secret_key, session_token=found.session_token
        )

    return retry(attempt, min(settings.retry_s, _RETRY_S))


class _Answers(WholePool):
    """Turns an answer that is no success into an error with the server's reason, which the provider drops."""

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        response = super().urlopen(method, url, redirect, **options)
        if response.status != 200:
            raise _refusal(url, response)
        return response


def _refusal(url: str, response: urllib3.BaseHTTPResponse) -> StoreError:
    status, reason = response.status, _reason(response.data)
    said = f"HTTP {status}, {reason}" if reason else f"HTTP {status}"
    if status in _MISSING:
        return _no_sts(url, said)
    if status >= 500 or status in _BUSY:
        advice = "see its log; if it has no STS, set session_credentials to false in the job profile"
        return StoreError(f"the STS at {url} failed ({said}): {advice}", transient=True)
    advice = "set a shorter deadline_s in the job profile" if status == 400 else "check the keys of S3"
    return StoreError(f"the STS at {url} refused session keys ({said}): {advice}")


def _no_sts(url: str, said: str) -> StoreError:
    advice = (
        "set session_credentials to false in the job profile, or use a server that has one, such as MinIO"
    )
    return StoreError(f"the server at {url} has no STS ({said}): {advice}")


def _reason(body: bytes) -> str:
    """Return code and message of an XML error; empty for any other answer."""
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return ""
    texts = {element.tag.rpartition("}")[2]: element.text or "" for element in root.iter()}
    return redact_line(f"{texts.get('Code', '')}: {texts.get('Message', '')}")
