"""`llava-av data log`: the history of a dataset."""

from typing import TYPE_CHECKING, Any

from llava_av.cli.data_options import AsJson, DatasetName, print_json, stored_data
from llava_av.cli.options import OutputDir
from llava_av.errors import printable
from llava_av.plurals import count_of
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.datasets.history import LoggedCommit
    from llava_av.datasets.manifest import Manifest

__all__ = ["log"]


def log(dataset: DatasetName, as_json: AsJson = False, output_dir: OutputDir = DEFAULT_FOLDER) -> None:
    """Show the commits of a dataset, the newest first."""
    from llava_av.datasets.commits import find_commit
    from llava_av.datasets.history import read_log

    with stored_data(output_dir, dataset) as store:
        entries = list(read_log(store, find_commit(store, dataset)))
    if as_json:
        print_json([_logged_json(one) for one in entries])
        return
    print("\n\n".join(_logged_text(one) for one in entries))


def _logged_json(logged: "LoggedCommit") -> dict[str, Any]:
    commit, entry = logged.commit, logged.entry
    return {
        "commit": commit.id,
        "parent": commit.parent,
        "at": entry.at.isoformat() if entry else None,
        "author": entry.author if entry else None,
        "message": entry.message if entry else None,
        "samples": {split: part.samples for split, part in commit.manifest.splits.items()},
        "left_out": len(commit.manifest.quarantined),
        "files": len(commit.manifest.files),
        "bytes": _bytes(commit.manifest),
    }


def _logged_text(logged: "LoggedCommit") -> str:
    commit, entry = logged.commit, logged.entry
    samples = ", ".join(f"{part.samples} {split}" for split, part in commit.manifest.splits.items())
    files = f"{count_of(len(commit.manifest.files), 'file')}, {count_of(_bytes(commit.manifest), 'byte')}"
    lines = [f"{commit.name}@{commit.id}"]
    if entry is None:
        lines.append("  time and author unknown: an earlier version committed it")
    else:
        lines.append(f"  {entry.at:%Y-%m-%d %H:%M:%S %Z}  {printable(entry.author)}")
    lines.append(f"  {samples}; {files}")
    if entry is not None and entry.message:
        lines += [f"  {printable(line)}" for line in entry.message.splitlines()]
    return "\n".join(lines)


def _bytes(manifest: "Manifest") -> int:
    return sum(file.bytes for file in manifest.files.values())
