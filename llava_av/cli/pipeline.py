"""`llava-av pipeline`: the Kubeflow pipeline as a file, and on a backend."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_av.errors import UserError

if TYPE_CHECKING:
    from pipelines.backend import Backend

__all__ = ["app"]

_LOG = logging.getLogger(__name__)

app = typer.Typer(
    help="The Kubeflow pipeline: compile it, run it on a backend, schedule it.", no_args_is_help=True
)

Package = Annotated[Path, typer.Argument(metavar="FILE", help="The pipeline, as `compile` wrote it.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="NAME=VALUE",
        help="A parameter as in the UI; recipe and profile may be a file.",
    ),
]
Endpoint = Annotated[
    str, typer.Option("--endpoint", envvar="KFP_ENDPOINT", help="Address of Kubeflow Pipelines' UI or API.")
]
KfpNamespace = Annotated[
    str, typer.Option("--kfp-namespace", help="Your profile's namespace, where Kubeflow has several users.")
]
Group = Annotated[str, typer.Option("--group", help="Kubeflow experiment that the run is shown in.")]
Name = Annotated[str, typer.Option("--name", help="Name of the run; from recipe and dataset if absent.")]


@app.command("compile")
def compile_file(
    file: Annotated[Path, typer.Argument(help="YAML file to write; one can upload it in the UI, too.")],
    image: Annotated[
        str,
        typer.Option(envvar="LLAVA_AV_PIPELINE_IMAGE", help="Image of the steps, best by digest."),
    ],
    train_image: Annotated[
        str, typer.Option(envvar="LLAVA_AV_TRAIN_IMAGE", help="Image of the jobs; the profile's if absent.")
    ] = "",
    services_config_map: Annotated[
        str, typer.Option(help="ConfigMap that tells the steps where S3 and MLflow are.")
    ] = "",
    credentials_secret: Annotated[
        str, typer.Option(help="Secret with the steps' credentials; `none` for a cloud's identity.")
    ] = "",
    ca_config_map: Annotated[
        str, typer.Option(help="ConfigMap whose ca.crt holds the certificate authorities to trust.")
    ] = "",
    image_pull_secret: Annotated[
        str, typer.Option(help="Secret with the credentials of the images' registry.")
    ] = "",
    objects: Annotated[
        str,
        typer.Option(
            metavar="NAMESPACE",
            help="Write Pipeline and PipelineVersion objects for kubectl instead.",
        ),
    ] = "",
) -> None:
    """Write the pipeline for a cluster as YAML."""
    from llava_av.launch import is_pinned
    from pipelines.pipeline import PipelineSettings, compile_objects, compile_pipeline

    for given in filter(None, (image, train_image)):
        if not is_pinned(given):
            _LOG.warning("%s has no digest, so finished steps of earlier runs are not reused", given)
    chosen: dict[str, Any] = {"services_config_map": services_config_map, "ca_config_map": ca_config_map}
    chosen |= {"credentials_secret": credentials_secret, "image_pull_secret": image_pull_secret}
    if credentials_secret == "none":
        chosen["credentials_secret"] = None
    given_ones = {name: value for name, value in chosen.items() if value != ""}
    settings = PipelineSettings(image=image, train_image=train_image, **given_ones)
    if file.suffix not in (".yaml", ".yml"):
        raise UserError(f"{file} has to end in .yaml: it becomes a YAML file")
    try:
        if objects:
            compile_objects(file, settings, objects)
        else:
            compile_pipeline(file, settings)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from None
    print(file)


@app.command()
def run(
    package: Package,
    endpoint: Endpoint,
    param: Parameters = None,
    name: Name = "",
    group: Group = "llava-av",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Whether to follow it to its end.")] = True,
    kfp_namespace: KfpNamespace = "",
) -> None:
    """Run the pipeline on a backend; exit with 1 when the run fails. Ctrl-C leaves the run alone."""
    parameters = _parameters(package, param)
    backend = _backend(endpoint, kfp_namespace)
    uploaded = backend.upload(package)
    started = backend.start(uploaded, parameters, group=group, name=name or _name(parameters))
    print(f"run {started} of version {uploaded.version}: {backend.page(started)}", flush=True)
    if not wait:
        return
    try:
        ended = backend.follow(started, _LOG.info)
    except KeyboardInterrupt:
        _LOG.info("the run goes on; `Terminate` on its page ends it, with its jobs")
        raise
    if ended.state != "SUCCEEDED":
        why = "; ".join(ended.failed) or "no step says why"
        raise UserError(
            f"the run ended as {ended.state.lower()}: {why} (summary of its step cleanup has more)"
        )
    print("the run has ended well")


@app.command()
def schedule(
    package: Package,
    endpoint: Endpoint,
    cron: Annotated[
        str,
        typer.Option(help="When, in UTC: second, minute, hour, day, month, weekday: '0 0 2 * * *'."),
    ],
    param: Parameters = None,
    name: Name = "",
    group: Group = "llava-av",
    kfp_namespace: KfpNamespace = "",
) -> None:
    """Run the pipeline on a backend again and again, one run at a time, in place of what has its name."""
    parameters = _parameters(package, param)
    backend = _backend(endpoint, kfp_namespace)
    title = name or _name(parameters)
    made = backend.schedule(backend.upload(package), parameters, group=group, name=title, cron=cron)
    print(f"recurring run {made}")


@app.command()
def reap(
    endpoint: Endpoint,
    namespace: Annotated[str, typer.Option(help="Namespace of the jobs.")] = "llava-av",
    kfp_namespace: KfpNamespace = "",
) -> None:
    """Delete PyTorchJobs whose pipeline run has ended without them; print their names.

    Jobs of runs that this backend does not know are deleted, too, also while another installation runs them:
    two installations must not share a namespace of jobs. Nor does a backend know the runs since the backup
    that its database was restored from.
    """
    for name in _backend(endpoint, kfp_namespace).reap(namespace):
        print(name)


def _backend(endpoint: str, namespace: str) -> "Backend":
    from pipelines.backend import Backend

    return Backend(endpoint, namespace=namespace or None)


def _parameters(package: Path, texts: list[str] | None) -> dict[str, Any]:
    """The parameters given, of the types that the pipeline declares; a file of this machine as content."""
    from pipelines.pipeline import read_parameters

    types = read_parameters(package)
    given: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--param {text}: give NAME=VALUE, such as recipe=dryrun")
        if name not in types:
            raise UserError(f"--param {name}: the pipeline has only {', '.join(sorted(types))}")
        given[name] = _typed(name, value, types[name])
    return given


def _typed(name: str, value: str, kind: str) -> Any:
    if kind == "BOOLEAN":
        if value not in ("true", "false"):
            raise UserError(f"--param {name}={value}: give true or false")
        return value == "true"
    if kind == "NUMBER_INTEGER":
        try:
            return int(value)
        except ValueError:
            raise UserError(f"--param {name}={value}: give a whole number") from None
    if name in ("recipe", "profile") and Path(value).suffix in (".yaml", ".yml"):
        return _content(name, value)
    return value


def _content(name: str, path: str) -> str:
    """What a file of this machine holds, as the parameter takes it."""
    import json

    from llava_av.documents import read_document
    from llava_av.launch import ProfileError, profile_folder
    from llava_av.recipe import load_recipe

    if name == "recipe":
        return load_recipe(path).canonical_json()
    # Not checked here: other parameters may say what it lacks.
    found = read_document(path, kind="profile", folder=profile_folder(), error=ProfileError)
    if not isinstance(found.content, dict):
        raise ProfileError(f"{found.where}: not a mapping of fields; see k8s/profiles/cpu.yaml for one")
    try:
        return json.dumps(found.content)
    except TypeError:
        raise ProfileError(
            f"{found.where}: a value, such as a date, is neither text nor a number; put it in quotes"
        ) from None


def _name(parameters: Mapping[str, Any]) -> str:
    recipe = str(parameters.get("recipe", "dryrun"))
    named = "recipe of a file" if recipe.startswith("{") else recipe
    return f"{named} on {parameters.get('dataset', 'demo')}"
