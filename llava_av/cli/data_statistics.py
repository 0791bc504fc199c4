"""`llava-av data stats`: statistics of a commit."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.data_options import DatasetArgument, pending_text
from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson, OutputDir, chosen_recipe
from llava_av.cli.session import stored_objects
from llava_av.errors import printable
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.datasets.statistics import Spread, Statistics
    from llava_av.workflows.dataset_tokens import TokenStatistics

__all__ = ["stats"]

_MOST_ROWS = 10


def stats(
    dataset: DatasetArgument,
    split: Annotated[str, typer.Option(help="Only samples of this split.")] = "",
    recipe: Annotated[
        str, typer.Option(help="Also count the tokens of each sample for the model of this recipe.")
    ] = "",
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Show hours, resolutions, rates, modalities, kinds and lengths of a commit."""
    from llava_av.datasets.commits import find_commit
    from llava_av.datasets.contents import Selection, read_contents
    from llava_av.datasets.pending_checks import pending_files
    from llava_av.datasets.statistics import statistics_of

    tokens = None
    chosen = chosen_recipe(recipe) if recipe else None
    with stored_objects(output_dir, dataset) as store:
        commit = find_commit(store, dataset)
        pending = pending_files(store, commit).digests
        contents = read_contents(store, commit, Selection(split=split))
        if chosen is not None:
            from llava_av.workflows.dataset_tokens import count_tokens

            tokens = count_tokens(contents, chosen)
    found = statistics_of(contents)
    undecoded = len([row for row in contents.files.values() if row.sha256 in pending])
    if as_json:
        counted = {} if tokens is None else {"tokens": tokens.model_dump(mode="json")}
        names = {"name": commit.name, "commit": commit.id, "pending": undecoded}
        print_json({**names, **found.model_dump(mode="json"), **counted})
        return
    print(f"{commit.name}@{commit.id}")
    lines = (*_statistics_text(found, tokens), *pending_text(undecoded, dataset))
    print("\n".join(map(printable, lines)))


def _statistics_text(found: "Statistics", tokens: "TokenStatistics | None") -> Iterator[str]:
    counts = found.counts
    yield f"samples           {counts['samples']}"
    yield _row("splits", counts["splits"])
    yield _row("kinds", counts["kinds"])
    yield _row("modalities", found.modalities)
    yield _spread("answers, words", found.answer_words)
    yield _spread("answers, chars", found.answer_characters)
    yield _spread("turns", found.turns)
    yield f"files             {counts['files']}, {counts['bytes']} bytes"
    yield _row("media", {**found.media, **({"unknown": found.unknown} if found.unknown else {})})
    yield "hours             " + ", ".join(f"{hours:.3f} {kind}" for kind, hours in found.hours.items())
    yield _spread("seconds", found.duration_s)
    yield _row("resolutions", found.resolutions)
    yield _row("frames/s", found.frame_rates)
    yield _row("audio, Hz", found.sample_rates_hz)
    if tokens is not None:
        yield _spread("tokens", tokens.tokens)
        yield f"without tokens    {tokens.unfit} unfit, {tokens.unknown} unknown (recipe {tokens.recipe})"
    if found.unknown:
        yield "properties of media are unknown: an earlier version made this commit; commit the folder again"


def _row(title: str, counts: dict[str, int]) -> str:
    shown = [f"{number} {name}" for name, number in list(counts.items())[:_MOST_ROWS]]
    more = [f"{len(counts) - _MOST_ROWS} more"] if len(counts) > _MOST_ROWS else []
    return f"{title:<17} " + (", ".join([*shown, *more]) or "none")


def _spread(title: str, spread: "Spread | None") -> str:
    if spread is None:
        return f"{title:<17} none"
    numbers = f"{spread.min:g} to {spread.max:g}, median {spread.median:g}, mean {spread.mean:g}"
    return f"{title:<17} {numbers}, 95 % up to {spread.p95:g}"
