"""`llava-av recipe`: list and show recipes, and estimate their size."""

import contextlib
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.display import print_json, result_console
from llava_av.cli.options import AsJson, OutputDir, Overrides, RecipeArgument, chosen_recipe
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from rich.table import Table

    from llava_av.recipe import Recipe
    from llava_av.workflows.estimate.estimating import Estimate

__all__ = ["app"]

_LOG = logging.getLogger(__name__)

app = typer.Typer(help="List and show recipes, and estimate their size.", no_args_is_help=True)


@app.command("list")
def list_all(as_json: AsJson = False) -> None:
    """List the recipes of the project and of the package."""
    from llava_av.recipe import named_recipes

    recipes = named_recipes()
    if as_json:
        print_json([{"name": name, "purpose": purpose} for name, purpose in recipes.items()])
        return
    width = max(map(len, recipes), default=0)
    for name, description in recipes.items():
        print(f"{name:<{width}}  {description}".rstrip())


@app.command()
def show(name: RecipeArgument, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print a recipe with every default, and its digest, as YAML that is a recipe itself.

    Media settings that the base model of a recipe determines are left out.
    """
    import yaml

    recipe = chosen_recipe(name, overrides=overrides, for_cluster=True)
    content = recipe.stated()
    if as_json:
        print_json({"digest": recipe.digest(), "recipe": content})
        return
    print(f"# digest: {recipe.digest()}")
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100), end="")


@app.command()
def estimate(
    name: RecipeArgument,
    gpus: Annotated[int, typer.Option(min=1, max=100_000, help="Number of GPUs.")],
    gpu_memory: Annotated[float, typer.Option(min=0.1, help="Memory of each GPU in GiB.")] = 80.0,
    text_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each sample's text.")] = 256,
    overrides: Overrides = None,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Estimate parameters, memory and checkpoint size; exit with 1 if the recipe does not fit the GPUs."""
    chosen = chosen_recipe(
        name, overrides=[*(overrides or []), f"training.num_processes={gpus}"], for_cluster=True
    )
    from llava_av.checkpoints import read_base_config
    from llava_av.recipe import shipped_base, with_media_of_base
    from llava_av.workflows.estimate.advice import require_fit
    from llava_av.workflows.estimate.estimating import Estimator

    # That of `recipe show`, without the base model's media settings.
    digest = {"digest": chosen.digest()}
    with _reading_base(chosen, output_dir):
        if chosen.model.base is not None:
            shipped = shipped_base(chosen.model.base)
            if shipped is not None:
                _LOG.info("there is no model at %s: using its config from %s", chosen.model.base, shipped)
            chosen = with_media_of_base(chosen, read_base_config(str(shipped or chosen.model.base)))
        estimator = Estimator(text_tokens=text_tokens)
        estimated = estimator.estimate_stages(chosen)
        found = {stage: one.model_copy(update=digest) for stage, one in estimated.items()}
        if as_json:
            stages = {name: one.to_json() for name, one in found.items()}
            print_json({"stages": stages} if chosen.stages else stages[""])
        else:
            _print(found)
        require_fit(estimator, chosen, found, gpu_memory)


def _reading_base(recipe: "Recipe", output_dir: Path) -> AbstractContextManager[object]:
    """Connect to S3 if the recipe's base model is there."""
    from llava_av.cli.session import require_state, session

    base = recipe.model.base
    if base is None or not base.startswith("s3://"):
        return contextlib.nullcontext()
    require_state(output_dir, base)
    return session(output_dir, need_mlflow=False)


def _print(stages: "Mapping[str, Estimate]") -> None:
    found = next(iter(stages.values()))
    engine = found.engine if found.zero_stage is None else f"{found.engine}, ZeRO {found.zero_stage}"
    console = result_console()
    console.print(
        f"{found.recipe} on {found.gpus} GPUs ({engine}, {found.precision}), digest {found.digest[:16]}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    for table in (_parameters(stages), _memory(stages), _step(stages)):
        console.print()
        console.print(table)


def _parameters(stages: "Mapping[str, Estimate]") -> "Table":
    table = _table("part", "parameters", *(f"trained {name}".strip() for name in stages))
    sizes = [found.model for found in stages.values()]
    for parts in zip(*(size.parts for size in sizes), strict=True):
        # Only the last stage may have an adapter.
        table.add_row(parts[0].name, f"{parts[-1].parameters:,}", *(f"{part.trained:,}" for part in parts))
    table.add_row("total", f"{sizes[-1].parameters:,}", *(f"{size.trained:,}" for size in sizes))
    return table


def _memory(stages: "Mapping[str, Estimate]") -> "Table":
    table = _table("memory of each GPU", *(f"GiB {name}".strip() for name in stages))
    memories = [found.memory for found in stages.values()]
    for name in ("weights", "gradients", "optimizer_states", "activations", "buffers", "total"):
        table.add_row(name.replace("_", " "), *(_gib(getattr(memory, name)) for memory in memories))
    if any(memory.host for memory in memories):
        table.add_row("host memory for the optimizer", *(_gib(memory.host) for memory in memories))
    if any(memory.start > memory.total for memory in memories):
        table.add_row("whole model in float32, at the start", *(_gib(memory.start) for memory in memories))
    return table


def _step(stages: "Mapping[str, Estimate]") -> "Table":
    table = _table("step and checkpoint", *stages)
    every = list(stages.values())
    table.add_row("samples per GPU", *(f"{one.samples_per_gpu:,}" for one in every))
    table.add_row("tokens of the longest sample", *(f"{one.tokens_per_sample:,}" for one in every))
    table.add_row("tokens per step, at most", *(f"{one.tokens_per_step:,}" for one in every))
    table.add_row("checkpoint, GiB", *(_gib(one.checkpoint_bytes) for one in every))
    return table


def _gib(count: int) -> str:
    from llava_av.workflows.estimate.advice import GIB

    return f"{count / GIB:,.3f}"


def _table(first: str, *others: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for title in others:
        table.add_column(title, justify="right")
    return table
