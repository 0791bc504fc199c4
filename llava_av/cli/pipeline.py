"""`llava-av pipeline`: compile, run and schedule the Kubeflow pipeline."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson
from llava_av.errors import UserError

if TYPE_CHECKING:
    from pipelines.backend import Backend

__all__ = ["app"]

_LOG = logging.getLogger(__name__)

app = typer.Typer(help="Compile, run and schedule the Kubeflow pipeline.", no_args_is_help=True)

Package = Annotated[Path, typer.Argument(metavar="FILE", help="Pipeline file that `compile` wrote.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="NAME=VALUE",
        help="Pipeline parameter; recipe and profile may be files.",
    ),
]
Endpoint = Annotated[
    str, typer.Option("--endpoint", envvar="KFP_ENDPOINT", help="URL of Kubeflow Pipelines' UI or API.")
]
KfpNamespace = Annotated[
    str, typer.Option("--kfp-namespace", help="Namespace of your Kubeflow profile, on multi-user Kubeflow.")
]
Group = Annotated[str, typer.Option("--group", help="Kubeflow experiment of the run.")]
Name = Annotated[str, typer.Option("--name", help="Name of the run (default: recipe and dataset).")]


@app.command("compile")
def compile_file(
    file: Annotated[Path, typer.Argument(help="YAML file to write, which can also be uploaded in the UI.")],
    image: Annotated[
        str,
        typer.Option(envvar="LLAVA_AV_PIPELINE_IMAGE", help="Image of the steps, preferably by digest."),
    ],
    train_image: Annotated[
        str,
        typer.Option(envvar="LLAVA_AV_TRAIN_IMAGE", help="Image of the jobs (default: the profile's)."),
    ] = "",
    services_config_map: Annotated[
        str, typer.Option(help="ConfigMap with the addresses of S3 and MLflow.")
    ] = "",
    credentials_secret: Annotated[
        str, typer.Option(help="Secret with the steps' credentials; `none` for a cloud identity.")
    ] = "",
    ca_config_map: Annotated[
        str, typer.Option(help="ConfigMap whose ca.crt holds the trusted certificate authorities.")
    ] = "",
    image_pull_secret: Annotated[
        str, typer.Option(help="Secret with the registry credentials for pulling images.")
    ] = "",
    objects: Annotated[
        str,
        typer.Option(
            metavar="NAMESPACE",
            help="Write Pipeline and PipelineVersion objects for kubectl instead.",
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Write the pipeline for a cluster as YAML."""
    from llava_av.launch import DEFAULT_CREDENTIALS_SECRET, DEFAULT_SERVICES_CONFIG_MAP, is_pinned
    from pipelines.pipeline import PipelineSettings, compile_objects, compile_pipeline

    for given in filter(None, (image, train_image)):
        if not is_pinned(given):
            _LOG.warning("image %s has no digest, so finished steps of earlier runs are not reused", given)
    secret = credentials_secret or DEFAULT_CREDENTIALS_SECRET
    settings = PipelineSettings(
        image=image,
        train_image=train_image,
        services_config_map=services_config_map or DEFAULT_SERVICES_CONFIG_MAP,
        credentials_secret=None if secret == "none" else secret,
        ca_config_map=ca_config_map or None,
        image_pull_secret=image_pull_secret or None,
    )
    if file.suffix not in (".yaml", ".yml"):
        raise UserError(f"{file} must end in .yaml")
    try:
        if objects:
            compile_objects(file, settings, objects)
        else:
            compile_pipeline(file, settings)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from None
    if as_json:
        print_json({"file": str(file)})
    else:
        print(file)


@app.command()
def run(
    package: Package,
    endpoint: Endpoint,
    param: Parameters = None,
    name: Name = "",
    group: Group = "llava-av",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run until it ends.")] = True,
    kfp_namespace: KfpNamespace = "",
    as_json: AsJson = False,
) -> None:
    """Run the pipeline on a backend; exit with 1 if the run fails. Ctrl-C does not stop the run."""
    parameters = _parameters(package, param)
    backend = _backend(endpoint, kfp_namespace)
    uploaded = backend.upload(package)
    started = backend.start(uploaded, parameters, group=group, name=name or _name(parameters))
    page = backend.page(started)
    if as_json:
        print_json({"run": started, "version": uploaded.version, "page": page})
    else:
        print(f"run {started} of version {uploaded.version}: {page}", flush=True)
    if wait:
        _follow(backend, started)


def _follow(backend: "Backend", started: str) -> None:
    try:
        ended = backend.follow(started, _LOG.info)
    except KeyboardInterrupt:
        _LOG.info("the run continues; to stop it and its jobs, use `Terminate` on its page")
        raise
    if ended.state != "SUCCEEDED":
        why = "; ".join(ended.failed) or "no step reported a cause"
        raise UserError(
            f"the run ended as {ended.state.lower()}: {why} (see the summary of its cleanup step)"
        )
    _LOG.info("the run succeeded")


@app.command()
def schedule(
    package: Package,
    endpoint: Endpoint,
    cron: Annotated[
        str,
        typer.Option(
            help="Schedule in UTC: second, minute, hour, day, month, weekday, such as '0 0 2 * * *'."
        ),
    ],
    param: Parameters = None,
    name: Name = "",
    group: Group = "llava-av",
    kfp_namespace: KfpNamespace = "",
    as_json: AsJson = False,
) -> None:
    """Schedule the pipeline on a backend, one run at a time; replace the schedule of the same name."""
    parameters = _parameters(package, param)
    backend = _backend(endpoint, kfp_namespace)
    title = name or _name(parameters)
    made = backend.schedule(backend.upload(package), parameters, group=group, name=title, cron=cron)
    if as_json:
        print_json({"recurring_run": made})
    else:
        print(f"recurring run {made}")


@app.command("reap", hidden=True)
@app.command()
def delete_orphans(
    endpoint: Endpoint,
    namespace: Annotated[str, typer.Option(help="Namespace of the jobs.")] = "llava-av",
    kfp_namespace: KfpNamespace = "",
    as_json: AsJson = False,
) -> None:
    """Delete orphaned jobs, whose pipeline run has ended, and print their names.

    Jobs of runs that the backend does not know also count as orphaned. Therefore two installations must not
    share a job namespace, and after you restore the backend's database from a backup, this command deletes
    the jobs of all later runs.
    """
    names = _backend(endpoint, kfp_namespace).delete_orphaned_jobs(namespace)
    if as_json:
        print_json(names)
        return
    for name in names:
        print(name)


def _backend(endpoint: str, namespace: str) -> "Backend":
    from pipelines.backend import Backend

    return Backend(endpoint, namespace=namespace or None)


def _parameters(package: Path, texts: list[str] | None) -> dict[str, bool | int | str]:
    """Convert parameters to the types that the pipeline declares; local files become their content."""
    from pipelines.pipeline import read_parameters

    types = read_parameters(package)
    given: dict[str, bool | int | str] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--param {text}: give NAME=VALUE, such as recipe=dryrun")
        if name not in types:
            raise UserError(f"--param {name}: unknown; the pipeline has {', '.join(sorted(types))}")
        given[name] = _typed(name, value, types[name])
    return given


def _typed(name: str, value: str, kind: str) -> bool | int | str:
    if kind == "BOOLEAN":
        if value not in ("true", "false"):
            raise UserError(f"--param {name}={value}: must be true or false")
        return value == "true"
    if kind == "NUMBER_INTEGER":
        try:
            return int(value)
        except ValueError:
            raise UserError(f"--param {name}={value}: must be an integer") from None
    if name in ("recipe", "profile") and Path(value).suffix in (".yaml", ".yml"):
        return _content(name, value)
    return value


def _content(name: str, path: str) -> str:
    """Return the content of a local file in the form that the parameter takes."""
    import json

    from llava_av.launch import ProfileError, read_profile
    from llava_av.recipe import load_recipe

    if name == "recipe":
        return load_recipe(path).stated_json()
    # Not validated here: other parameters may supply missing fields.
    found = read_profile(path)
    if not isinstance(found.content, dict):
        raise ProfileError(f"{found.where}: must be a mapping of fields; see k8s/profiles/cpu.yaml")
    try:
        return json.dumps(found.content)
    except TypeError:
        raise ProfileError(
            f"{found.where}: a value is neither text nor a number, for example a date; quote it"
        ) from None


def _name(parameters: Mapping[str, object]) -> str:
    recipe = str(parameters.get("recipe", "dryrun"))
    named = "custom recipe" if recipe.startswith("{") else recipe
    return f"{named} on {parameters.get('dataset', 'demo')}"
