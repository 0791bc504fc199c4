"""Kubeflow Pipelines backend: upload, run, schedule and follow the pipeline, delete orphaned jobs."""

import contextlib
import io
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_av.errors import UserError
from llava_av.launch import delete_jobs, pipeline_runs_with_jobs
from llava_av.paging import all_pages
from llava_av.redaction import redact
from llava_av.workflows.runtime.workspace import STEPS
from pipelines.pipeline import NAME, version_of

__all__ = ["Backend", "BackendError", "RunEnded", "Uploaded"]

TOKEN_VARIABLE = "KFP_TOKEN"
_ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
_POLL_S = 2.0
_PATIENCE_S = 300.0
_NOT_FOUND = 5
_EQUALS = 1  # of the API's filters


class BackendError(UserError):
    """A backend that is unreachable or rejects a request."""

    code: int | None = None
    """gRPC code of the backend's answer; None if it has none."""


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """A version of the pipeline on the backend."""

    pipeline_id: str
    version_id: str
    version: str
    """Name of the version; see `version_of`."""


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """Final state of a run."""

    state: str
    """State on the backend, such as SUCCEEDED or FAILED."""
    failed: tuple[str, ...]
    """Steps that failed; the backend does not return the cause."""


class Backend:
    """One Kubeflow Pipelines installation."""

    def __init__(self, endpoint: str, *, namespace: str | None = None) -> None:
        """Connect to an installation; if it requires authentication, KFP_TOKEN holds the bearer token.

        Args:
            endpoint: Address of the API or UI, such as http://ml-pipeline.kubeflow:8888.
            namespace: The profile's namespace, on installations with several users.

        Raises:
            BackendError: The endpoint is unreachable, or is not Kubeflow Pipelines.
        """
        if not endpoint.startswith(("http://", "https://")):
            raise BackendError(f"--endpoint {endpoint} must start with http:// or https://")
        warnings.filterwarnings("ignore", message="This client only works", category=FutureWarning)
        import kfp_server_api
        from kfp import client

        class Client(client.Client):  # type: ignore[misc]
            """Client that checks the backend's health once instead of retrying for half a minute."""

            def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
                health = self._healthz_api.healthz_service_get_healthz()
                # Login pages and other servers answer too, and so does the UI without its API server.
                if health.multi_user is None:
                    raise ValueError("this server is not the API of Kubeflow Pipelines: check --endpoint")
                return health

            def create_pipeline(self, name: str, namespace: str | None) -> str:
                """Create a pipeline without a version; uploading would create one of the same name."""
                made = kfp_server_api.V2beta1Pipeline(display_name=name, namespace=namespace)
                return str(self._pipelines_api.pipeline_service_create_pipeline(made).pipeline_id)

        self._endpoint, self._namespace = endpoint.rstrip("/"), namespace
        with self._failures():
            self._client = Client(
                host=self._endpoint,
                existing_token=os.environ.get(TOKEN_VARIABLE) or None,
                ssl_ca_cert=os.environ.get("SSL_CERT_FILE") or None,
                **({"namespace": namespace} if namespace else {}),
            )
            self._client.get_kfp_healthz()

    def upload(self, package: Path) -> Uploaded:
        """Upload the compiled pipeline, unless the backend already has this version.

        Raises:
            BackendError: The backend rejects the request.
        """
        version = version_of(package)
        with self._failures():
            pipeline_id = self._pipeline() or self._client.create_pipeline(NAME, self._namespace)
            known = self._version(pipeline_id, version)
            if known is None:
                known = self._client.upload_pipeline_version(
                    str(package), pipeline_version_name=version, pipeline_id=pipeline_id
                ).pipeline_version_id
        return Uploaded(pipeline_id=pipeline_id, version_id=known, version=version)

    def start(self, uploaded: Uploaded, parameters: Mapping[str, Any], *, group: str, name: str) -> str:
        """Start a run; return its ID.

        Args:
            uploaded: Version to run.
            parameters: Parameters of the pipeline; the others keep their defaults.
            group: The backend's experiment that shows the run, created if it does not exist.
            name: Name of the run.

        Raises:
            BackendError: The backend rejects the request.
        """
        with self._failures():
            run = self._client.run_pipeline(
                self._group(group),
                name,
                pipeline_id=uploaded.pipeline_id,
                version_id=uploaded.version_id,
                params=dict(parameters),
            )
        return str(run.run_id)

    def schedule(
        self, uploaded: Uploaded, parameters: Mapping[str, Any], *, group: str, name: str, cron: str
    ) -> str:
        """Create a recurring run, one run at a time and without catching up; return its ID.

        It replaces the group's recurring run of this name. If a run of the old one is in progress, the old
        one is only disabled, since deleting it would delete that run's Workflow; the next call deletes it.

        Args:
            uploaded: Version to run.
            parameters: Parameters of the pipeline.
            group: The backend's experiment that shows the runs.
            name: Name of the recurring run.
            cron: Schedule of six fields, seconds first.

        Raises:
            BackendError: The backend rejects the request, for example an invalid cron expression.
        """
        with self._failures():
            group_id = self._group(group)
            replaced = self._recurring_runs(group_id, name)
            made = self._client.create_recurring_run(
                group_id,
                name,
                cron_expression=cron,
                max_concurrency=1,
                no_catchup=True,
                pipeline_id=uploaded.pipeline_id,
                version_id=uploaded.version_id,
                params=dict(parameters),
            )
            for one in replaced:
                self._client.disable_recurring_run(one)
                if not self._is_running(group_id, one):
                    self._client.delete_recurring_run(one)
        return str(made.recurring_run_id)

    def follow(self, run_id: str, report: Callable[[str], None]) -> RunEnded:
        """Wait until a run ends and report the states of its tasks; also wait for an unreachable backend.

        Raises:
            BackendError: The run does not exist, or the backend was unreachable for minutes.
        """
        reported: set[tuple[str, str]] = set()
        answered = time.monotonic()
        while True:
            try:
                with self._failures():
                    run = self._client.get_run(run_id)
                answered = time.monotonic()
            except BackendError as error:
                if not error.transient or time.monotonic() - answered > _PATIENCE_S:
                    raise
                time.sleep(_POLL_S)
                continue
            for task in _tasks(run):
                if task not in reported:
                    reported.add(task)
                    report(f"{task[0]:12} {task[1].lower()}")
            if run.state in _ENDED:
                return RunEnded(state=str(run.state), failed=_failed(run))
            time.sleep(_POLL_S)

    def has_ended(self, run_id: str) -> bool:
        """Return whether a run has ended, or is unknown to the backend.

        Raises:
            BackendError: The backend is unreachable or rejects the request.
        """
        try:
            with self._failures():
                return self._client.get_run(run_id).state in _ENDED
        except BackendError as error:
            # HTTP 404 of another server does not mean that the run does not exist.
            if error.code == _NOT_FOUND:
                return True
            raise

    def delete_orphaned_jobs(self, namespace: str) -> list[str]:
        """Delete the orphaned jobs in a namespace, whose pipeline run has ended; return their names.

        A cancelled step deletes its job, and the run's last step deletes the rest. Jobs remain only if a node
        was lost or a run was deleted. A run that is unknown to this backend counts as ended, so two backends
        must not share a job namespace.

        Raises:
            BackendError: The backend is unreachable or rejects the request.
            LaunchError: The cluster is unreachable or rejects the request.
        """
        ended = sorted(run for run in pipeline_runs_with_jobs(namespace) if self.has_ended(run))
        return [name for run in ended for name in delete_jobs(namespace, pipeline_run=run)]

    def page(self, run_id: str) -> str:
        """Return the address of a run's page, if the endpoint is the UI's."""
        return f"{self._endpoint}/#/runs/details/{run_id}"

    def _group(self, name: str) -> str:
        return str(self._client.create_experiment(name, namespace=self._namespace).experiment_id)

    def _pipeline(self) -> str | None:
        """Return the ID of the pipeline in the namespace, or of the shared one; None if there is none."""
        # The client's get_pipeline_id searches only the pipelines that all users share.
        named = {"operation": _EQUALS, "key": "display_name", "stringValue": NAME}
        query = json.dumps({"predicates": [named]})
        found = self._client.list_pipelines(filter=query, namespace=self._namespace).pipelines or []
        if len(found) > 1:
            raise BackendError(
                f"{len(found)} pipelines at {self._endpoint} are named {NAME}: rename or delete all but one"
            )
        return str(found[0].pipeline_id) if found else None

    def _recurring_runs(self, group_id: str, name: str) -> list[str]:
        """Return the IDs of the group's recurring runs of this name."""

        def fetch(token: str) -> tuple[list[Any], str]:
            page = self._client.list_recurring_runs(page_token=token, page_size=100, experiment_id=group_id)
            return page.recurring_runs or [], page.next_page_token

        return [str(one.recurring_run_id) for one in all_pages(fetch) if one.display_name == name]

    def _is_running(self, group_id: str, recurring_run_id: str) -> bool:
        """Return whether the newest run of a recurring run has not ended."""

        def fetch(token: str) -> tuple[list[Any], str]:
            newest = "created_at desc"
            page = self._client.list_runs(
                page_token=token, page_size=100, sort_by=newest, experiment_id=group_id
            )
            return page.runs or [], page.next_page_token

        states = (run.state for run in all_pages(fetch) if run.recurring_run_id == recurring_run_id)
        return next((state not in _ENDED for state in states), False)

    def _version(self, pipeline_id: str, name: str) -> str | None:
        """Return the ID of the version of this name; None if there is none."""

        def fetch(token: str) -> tuple[list[Any], str]:
            page = self._client.list_pipeline_versions(pipeline_id, page_token=token, page_size=100)
            return page.pipeline_versions or [], page.next_page_token

        found = (one.pipeline_version_id for one in all_pages(fetch) if one.display_name == name)
        return next(map(str, found), None)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn the client's errors into `BackendError`."""
        import kfp_server_api
        from urllib3.exceptions import HTTPError

        where = f"Kubeflow Pipelines at {self._endpoint}"
        try:
            # The client prints links.
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except kfp_server_api.ApiException as error:
            raise _refused(where, error) from None
        except ValueError as error:
            # For example an answer of another API.
            raise BackendError(f"{where}: {redact(' '.join(str(error).split()))[:300]}") from None
        except (HTTPError, OSError, TimeoutError) as error:
            said = str(getattr(error, "reason", None) or error).rsplit(">: ", 1)[-1]
            reason = redact(" ".join(said.split()))[:200]
            raise BackendError(
                f"{where} is unreachable ({reason}): check --endpoint", transient=True
            ) from None


def _refused(where: str, error: Any) -> BackendError:
    status = int(error.status or 0)
    if status in (401, 403):
        return BackendError(f"{where} rejects the credentials (HTTP {status}): set {TOKEN_VARIABLE}")
    try:
        answer = json.loads(error.body)
        code, said = answer.get("code"), str(answer.get("message") or answer.get("error"))
    except (TypeError, ValueError, AttributeError):
        return BackendError(
            f"{where} does not answer like Kubeflow Pipelines (HTTP {status}): check --endpoint",
            transient=status >= 500,
        )
    refused = BackendError(f"{where}: {redact(' '.join(said.split()))[:300]}", transient=status >= 500)
    refused.code = code
    return refused


def _tasks(run: Any) -> list[tuple[str, str]]:
    """Return name and state of each started task of the chain, in the order of their start."""
    details = (run.run_details.task_details if run.run_details else None) or []
    known = [task for task in details if task.display_name in (*STEPS, "cleanup") and task.state]
    return [(task.display_name, task.state) for task in sorted(known, key=lambda task: task.create_time)]


def _failed(run: Any) -> tuple[str, ...]:
    return tuple(name for name, state in _tasks(run) if state == "FAILED")
