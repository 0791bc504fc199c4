"""Name and parameters of a run, as every tracker shows them."""

from collections.abc import Mapping
from datetime import UTC, datetime

from llava_av.redaction import redact
from llava_av.runs import RunRequest, named_datasets

__all__ = ["run_name", "run_parameters"]


def run_name(request: RunRequest) -> str:
    """Return a name that people recognise, such as `dryrun · seed 0 · 23 Nov`."""
    now = datetime.now(UTC)
    return f"{request.recipe_name} · seed {request.seed} · {now.day} {now:%b}"


def run_parameters(request: RunRequest) -> dict[str, str]:
    """Return the fields of the recipe and the dataset commits by name, without passwords."""
    recipe = request.recipe
    parameters = {
        "run": request.run,
        "recipe_digest": recipe.digest(),
        "dataset": request.dataset.name,
        "dataset_commit": request.dataset.commit,
        **({"datasets": named_datasets(request.datasets)} if request.further_datasets else {}),
        **_flat(recipe.model_dump(mode="json")),
    }
    return {name: redact(str(value)) for name, value in parameters.items()}


def _flat(value: object, name: str = "") -> dict[str, object]:
    if not isinstance(value, Mapping):
        return {name: value}
    parts = [_flat(inner, f"{name}.{key}" if name else key) for key, inner in value.items()]
    return {key: inner for part in parts for key, inner in part.items()}
