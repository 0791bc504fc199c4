"""Pipeline from media to a registered, evaluated model: one definition for all installations."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler, dsl, kubernetes

from llava_av.errors import UserError
from llava_av.launch import (
    CA_FOLDER,
    DEFAULT_CREDENTIALS_SECRET,
    DEFAULT_SERVICES_CONFIG_MAP,
    TRUST_VARIABLES,
    is_pinned,
)
from llava_av.workflows.runtime.failures import PIPELINE_RUN_VARIABLE
from pipelines import components

__all__ = [
    "NAME",
    "PipelineSettings",
    "build_pipeline",
    "compile_objects",
    "compile_pipeline",
    "read_parameters",
    "version_of",
]

NAME = "llava-av"
_DEFAULT_IMAGE = "llava-av-pipeline:dev"
_SERVICES = ("AWS_ENDPOINT_URL_S3", "LLAVA_AV_BUCKET", "MLFLOW_TRACKING_URI")
_MORE_SERVICES = ("AWS_REGION", "LLAVA_AV_MLFLOW_URL")
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_MORE_CREDENTIALS = ("AWS_SESSION_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
_VERSION_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """Settings of an installation on a cluster; runs on this machine ignore them."""

    image: str = _DEFAULT_IMAGE
    """Image of the steps. Later runs reuse results only if it is named by digest."""
    train_image: str = ""
    """Image of the jobs, which a run can change; empty: the profile's."""
    services_config_map: str = DEFAULT_SERVICES_CONFIG_MAP
    """ConfigMap in the pipeline's namespace with the addresses of S3 and MLflow."""
    credentials_secret: str | None = DEFAULT_CREDENTIALS_SECRET
    """Secret in the pipeline's namespace with their credentials; None if the pods' identity has access."""
    ca_config_map: str | None = None
    """ConfigMap whose `ca.crt` holds all trusted certificate authorities; None: the image's."""
    image_pull_secret: str | None = None
    """Secret with the credentials of the image's registry."""


@dataclass(frozen=True)
class _Needs:
    """Resources of a step's pod: requests, and the memory limit."""

    cpu: str = "100m"
    memory: str = "256Mi"
    memory_limit: str = "1Gi"


_NEEDS: Mapping[str, _Needs] = {
    "data": _Needs(cpu="500m", memory="1Gi", memory_limit="2Gi"),
    "report": _Needs(memory="512Mi", memory_limit="2Gi"),
}


def build_pipeline(settings: PipelineSettings | None = None) -> Any:
    """Return the pipeline as a `kfp` component; calling it runs it if `kfp.local` is set up.

    Args:
        settings: Settings of the installation; None: `PipelineSettings()`.
    """
    chosen = settings or PipelineSettings()

    def step(body: Callable[..., Any], *, cached: bool = False, **inputs: Any) -> Any:
        # The image includes llava_av and kfp; installing them at run time would need network access.
        component = dsl.component(base_image=chosen.image, install_kfp_package=False)(body)
        task = component(**inputs).set_caching_options(cached and is_pinned(chosen.image))
        return _in_cluster(task, chosen, _NEEDS.get(body.__name__, _Needs()))

    @dsl.pipeline(name=NAME, description="From videos with audio to a registered, evaluated model")
    def llava_av_pipeline(
        recipe: str = "dryrun",
        overrides: str = "{}",
        dataset: str = "demo",
        dataset_name: str = "",
        experiment: str = "",
        launcher: str = "kubernetes",
        profile: str = "cpu",
        gpus: int = 0,
        train_image: str = chosen.train_image,
        job: str = "{}",
        gate: bool = True,
        allow_incomplete_record: bool = False,
        commit: str = "",
    ) -> None:
        ending = step(components.cleanup, launcher=launcher, profile=profile, job=job)
        with dsl.ExitHandler(ending, name="chain"):
            # Folders and registries can change, so steps that read them are never cached.
            opened = step(
                components.data,
                recipe=recipe,
                overrides=overrides,
                dataset=dataset,
                dataset_name=dataset_name,
                experiment=experiment,
                launcher=launcher,
                profile=profile,
                gpus=gpus,
                train_image=train_image,
                job=job,
                allow_incomplete_record=allow_incomplete_record,
                commit=commit,
            )
            # The run ID covers recipe, data, code and record; the job target covers image and bucket.
            run, target = opened.outputs["Output"], opened.outputs["job_target"]
            trained = step(components.train, cached=True, run=run, job_target=target)
            registered = step(components.register, run=run).after(trained)
            evaluated = step(components.evaluate, cached=True, run=run, job_target=target).after(registered)
            promoted = step(components.promote, run=run, gate=gate).after(evaluated)
            step(components.report, run=run).after(promoted)

    return llava_av_pipeline


def compile_pipeline(path: Path, settings: PipelineSettings | None = None) -> None:
    """Write the pipeline as YAML for a Kubeflow Pipelines backend."""
    compiler.Compiler().compile(build_pipeline(settings), str(path))


def compile_objects(path: Path, settings: PipelineSettings, namespace: str) -> None:
    """Write a Pipeline and a PipelineVersion, for a backend that stores pipelines as Kubernetes objects.

    The version is named after its content, so that a new version does not replace it.
    """
    compile_pipeline(path, settings)
    options = compiler.compiler_utils.KubernetesManifestOptions(
        pipeline_name=NAME,
        pipeline_version_name=f"{NAME}-{version_of(path)}",
        namespace=namespace,
        include_pipeline_manifest=True,
    )
    compiler.Compiler().compile(
        build_pipeline(settings),
        str(path),
        kubernetes_manifest_format=True,
        kubernetes_manifest_options=options,
    )


def version_of(package: Path) -> str:
    """Return the version name of a compiled pipeline: 12 hex digits of the file's sha256."""
    return hashlib.sha256(package.read_bytes()).hexdigest()[:_VERSION_DIGITS]


def read_parameters(package: Path) -> dict[str, str]:
    """Return Kubeflow's type name of each parameter of a compiled pipeline.

    Raises:
        UserError: The file is not a compiled pipeline of this project.
    """
    try:
        first = next(yaml.safe_load_all(package.read_text(encoding="utf-8")))
        assert first["pipelineInfo"]["name"] == NAME
        defined = first["root"]["inputDefinitions"]["parameters"]
    except OSError as error:
        text = f"cannot read {package}: {error.strerror}: write it with `llava-av pipeline compile {package}`"
        raise UserError(text) from None
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
        StopIteration,
        LookupError,
        TypeError,
        AssertionError,
    ):
        raise UserError(
            f"{package} is not a compiled pipeline of llava-av: write it with `llava-av pipeline compile`"
        ) from None
    return {name: str(about["parameterType"]) for name, about in defined.items()}


def _in_cluster(task: Any, settings: PipelineSettings, needs: _Needs) -> Any:
    """Configure a step's pod: resources, variables, security context; `kfp.local` ignores all of it."""
    task.set_cpu_request(needs.cpu).set_memory_request(needs.memory).set_memory_limit(needs.memory_limit)
    kubernetes.use_field_path_as_env(task, PIPELINE_RUN_VARIABLE, "metadata.labels['pipeline/runid']")
    kubernetes.set_security_context(task, run_as_user=1000, run_as_group=1000, run_as_non_root=True)
    for names, optional in ((_SERVICES, False), (_MORE_SERVICES, True)):
        kubernetes.use_config_map_as_env(
            task, settings.services_config_map, dict(zip(names, names, strict=True)), optional=optional
        )
    if settings.credentials_secret:
        for names, optional in ((_CREDENTIALS, False), (_MORE_CREDENTIALS, True)):
            kubernetes.use_secret_as_env(
                task, settings.credentials_secret, dict(zip(names, names, strict=True)), optional=optional
            )
    if settings.image_pull_secret:
        kubernetes.set_image_pull_secrets(task, [settings.image_pull_secret])
    if settings.ca_config_map:
        kubernetes.use_config_map_as_volume(task, settings.ca_config_map, CA_FOLDER)
        for name in TRUST_VARIABLES:
            task.set_env_variable(name, f"{CA_FOLDER}/ca.crt")
    return task
