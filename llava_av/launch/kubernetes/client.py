"""Client for the few Kubernetes API requests that launching a job needs, with one-line errors.

Objects are plain dicts as the API server sends them. The `kubernetes` package is imported on first use, so
that jobs on this machine do not need it.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_av.launch.api import LaunchError
from llava_av.launch.kubernetes.pytorchjob import GROUP, PLURAL, VERSION
from llava_av.redaction import redact_line

__all__ = ["ApiError", "Cluster", "Object", "Unreachable"]

_LOG = logging.getLogger(__name__)

Object = dict[str, Any]

_CONNECT_S, _READ_S = 10.0, 60.0
# Maximum duration of one watch request; the next one continues it.
_WATCH_S = 240
# A connection without data for this time counts as broken.
_SILENT_S = 300.0
_TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_JOBS = f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{PLURAL}"
_PODS = "/api/v1/namespaces/{namespace}/pods"
_BEARER = ["BearerToken"]


class ApiError(LaunchError):
    """A request that the API server answered with an error."""

    def __init__(self, status: int, text: str, *, transient: bool = False) -> None:
        super().__init__(text, transient=transient)
        self.status = status
        """HTTP status of the answer."""


class Unreachable(ApiError):
    """An API server that did not answer."""


class Cluster:
    """One namespace of the cluster that KUBECONFIG, ~/.kube/config or a pod's ServiceAccount selects."""

    def __init__(self, namespace: str) -> None:
        """Read the configuration without sending a request.

        Raises:
            LaunchError: There is no usable configuration.
        """
        self.namespace = namespace
        self._client = _client()
        self._host = str(self._client.configuration.host)

    def create_job(self, job: Object) -> Object:
        """Create a PyTorchJob; fails with status 409 if its name is taken, 404 if the kind is unknown."""
        return self._json("POST", _JOBS, body=job)

    def get_job(self, name: str) -> Object | None:
        """Return the PyTorchJob; None if there is none."""
        try:
            return self._json("GET", f"{_JOBS}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def delete_job(self, name: str, uid: str | None = None) -> None:
        """Delete a PyTorchJob with all it owns, if it exists and has this uid (if given)."""
        # Foreground keeps the job until its pods are gone, so that a new job of its name has none of them.
        options: Object = {"propagationPolicy": "Foreground"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            self._json("DELETE", f"{_JOBS}/{name}", body=options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def list_jobs(self, **query: str) -> Object:
        """Return a PyTorchJobList."""
        return self._json("GET", _JOBS, query=query)

    def list_pods(self, **query: str) -> Object:
        """Return a PodList."""
        return self._json("GET", _PODS, query=query)

    def get_pod(self, name: str) -> Object:
        """Return a pod."""
        return self._json("GET", f"{_PODS}/{name}")

    def list_events(self, of: str) -> list[Object]:
        """Return the events about the object of this name."""
        path = "/api/v1/namespaces/{namespace}/events"
        found = self._json("GET", path, query={"fieldSelector": f"involvedObject.name={of}"})
        return list(found["items"])

    def list_nodes(self) -> list[Object]:
        """Return all nodes."""
        return list(self._json("GET", "/api/v1/nodes")["items"])

    def watch_jobs(self, version: str, **query: str) -> Iterator[Object]:
        """Yield the events of PyTorchJobs after a resource version until the server ends the watch."""
        return self._watch(_JOBS, version, query)

    def watch_pods(self, version: str, **query: str) -> Iterator[Object]:
        """Yield the events of pods after a resource version until the server ends the watch."""
        return self._watch(_PODS, version, query)

    def read_log(self, pod: str, container: str, *, follow: bool, **query: str) -> Iterator[str]:
        """Yield a container's log as lines with a time stamp, with `follow` also future lines.

        Raises:
            Unreachable: The connection broke, or was silent for minutes, for example because a proxy dropped
                it; send the request again.
        """
        query = {"container": container, "timestamps": "true", "follow": str(follow).lower(), **query}
        response = self._send("GET", f"{_PODS}/{pod}/log", query=query, timeout=(_CONNECT_S, _SILENT_S))
        return (line.decode("utf-8", "replace") for line in self._lines(response))

    def _watch(self, path: str, version: str, query: Mapping[str, str]) -> Iterator[Object]:
        query = {
            **query,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_S),
        }
        response = self._send("GET", path, query=query, timeout=(_CONNECT_S, _SILENT_S))
        # A line that a broken connection cut off cannot be parsed.
        return (json.loads(line) for line in self._lines(response, whole=True) if line.strip())

    def _lines(self, response: Any, *, whole: bool = False) -> Iterator[bytes]:
        """Yield lines as they arrive; unless `whole`, the last one even without a line end."""
        import urllib3

        rest = b""
        try:
            for piece in response.stream(amt=None, decode_content=True):
                *lines, rest = (rest + piece).split(b"\n")
                yield from lines
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from None
        finally:
            response.close()
        if rest and not whole:
            yield rest

    def _json(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Object | None = None
    ) -> Object:
        response = self._send(method, path, query=query or {}, body=body, timeout=(_CONNECT_S, _READ_S))
        import urllib3

        try:
            answer = json.loads(response.data)
        except (ValueError, urllib3.exceptions.HTTPError) as error:
            raise self._unreachable(error) from None
        assert isinstance(answer, dict)
        return answer

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        timeout: tuple[float, float | None],
        body: Object | None = None,
    ) -> Any:
        import urllib3
        from kubernetes.client.exceptions import ApiException

        path = path.format(namespace=self.namespace)
        _LOG.debug("%s %s%s", method, self._host, path)
        try:
            return self._client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                auth_settings=_BEARER,
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=timeout,
            )
        except ApiException as error:
            raise self._refused(error) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> Unreachable:
        reason = getattr(error, "reason", None) or error
        text = redact_line(str(reason).rsplit(">: ", 1)[-1], 200)
        return Unreachable(
            0, f"cannot reach the cluster at {self._host} ({text}); check KUBECONFIG", transient=True
        )

    def _refused(self, error: Any) -> ApiError:
        status, said = int(error.status or 0), _message(error.body)
        where = f"the cluster at {self._host}"
        if status == 401:
            return ApiError(status, f"{where} rejects the credentials in KUBECONFIG; renew them")
        if status == 403 and "cannot" in said:
            return ApiError(status, f"not allowed: {said}; ask for a Role with this verb")
        if status == 404 and not said:
            return ApiError(
                status, f"{where} does not know PyTorchJobs: install the Kubeflow training operator (v1.9)"
            )
        transient = status == 429 or status >= 500
        return ApiError(status, f"{where} refused: {said or f'HTTP status {status}'}", transient=transient)


def _client() -> Any:
    try:
        from kubernetes import client, config
    except ImportError:
        raise LaunchError(
            "jobs on a cluster need the kubernetes package; install llava-av[cluster]"
        ) from None
    configuration = client.Configuration()
    # Callers retry the requests that may be repeated.
    configuration.retries = False
    try:
        if _in_pod():
            config.load_incluster_config(client_configuration=configuration)
        else:
            # Given explicitly because the package reads the variable only at import.
            config.load_kube_config(_kubeconfig(), client_configuration=configuration)
    except config.ConfigException as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise LaunchError(f"no cluster: {said}; set KUBECONFIG (now {_kubeconfig()})") from None
    except OSError as error:
        raise LaunchError(f"no cluster: cannot read {_kubeconfig()} ({error.strerror})") from None
    return client.ApiClient(configuration)


def _kubeconfig() -> str:
    return os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())


def _in_pod() -> bool:
    named = os.environ.get("KUBECONFIG") or Path(_kubeconfig()).exists()
    return not named and "KUBERNETES_SERVICE_HOST" in os.environ and _TOKEN_FILE.exists()


def _message(body: object) -> str:
    """Return the message of a Status object; empty for any other body."""
    try:
        status = json.loads(body) if isinstance(body, str | bytes) else {}
    except ValueError:
        return ""
    return " ".join(str(status.get("message", "")).split()) if isinstance(status, dict) else ""
