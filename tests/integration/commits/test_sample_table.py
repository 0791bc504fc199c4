"""Tables of the samples of a commit, also of text that looks like the keys of a line."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from llava_av.datasets.commits import Commit, find_commit
from llava_av.datasets.contents import read_samples
from llava_av.datasets.manifest import CommitError, Manifest, blob_key
from llava_av.datasets.sample_columns import columns_of, take
from llava_av.datasets.sample_table import sample_table
from llava_av.datasets.schema import Sample
from llava_av.storage import ObjectStore
from tests.integration.commits.folders import commit

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ODD = ('a"b', 'x],"id":"', "é\u2028", "\\", '],"kind":"', '"],"c', "a]}", "}", "\n")


def odd_samples(root: Path, count: int) -> tuple[Sample, ...]:
    """Write files with unusual names, and return samples about some of them, sorted by ID."""
    random = np.random.default_rng(0)
    for number, text in enumerate(ODD):
        (root / f"{text}{number}.bin").write_text(text)

    def some() -> list[str]:
        chosen = random.integers(0, len(ODD), size=int(random.integers(0, 3)))
        return [f"{ODD[number]}{number}.bin" for number in chosen]

    def text() -> str:
        return ODD[random.integers(0, len(ODD))]

    samples = [
        Sample.model_validate(
            {
                "id": f"{number:04}{text()}",
                "conversations": [{"from": "human", "value": text()}, {"from": "gpt", "value": text()}],
                **{role: some() for role in ("image", "video", "audio")},
                "use_audio": bool(random.integers(0, 2)),
                "kind": ("all", "b", text())[random.integers(0, 3)],
                "choices": [text()] if random.integers(0, 2) else [],
            }
        )
        for number in range(count)
    ]
    return tuple(sorted(samples, key=lambda one: one.id))


@pytest.fixture
def made(store: ObjectStore, tmp_path: Path) -> Commit:
    (tmp_path / "in").mkdir()
    return commit(store, tmp_path / "in", {"train": odd_samples(tmp_path / "in", 300)})


def test_a_table_has_the_samples_and_their_order(store: ObjectStore, made: Commit, tmp_path: Path) -> None:
    samples = read_samples(made.reader(store), "train")
    table = sample_table(store, made, "train", tmp_path / "tables")
    assert tuple(table) == samples == table[:]
    assert table[-1] == samples[-1]
    assert len(table) == 300
    of_table, of_samples = columns_of(table), columns_of(samples)
    assert of_table.media.tolist() == of_samples.media.tolist()
    assert of_table.kinds.names == of_samples.kinds.names
    assert of_table.kinds.numbers.tolist() == of_samples.kinds.numbers.tolist()
    assert of_table.kinds.counts() == of_samples.kinds.counts()
    places = np.array([7, 3, 100])
    chosen = take(take(table, np.arange(0, 300, 2)), places)
    assert tuple(chosen) == tuple(samples[2 * place] for place in places)
    assert set(columns_of(chosen).kinds.names) == {one.kind for one in chosen}
    with pytest.raises(IndexError):
        table[300]


def test_one_process_writes_a_table_for_all(
    store: ObjectStore, store_environment: Mapping[str, str], made: Commit, tmp_path: Path
) -> None:
    code = (
        "import sys, pathlib\nfrom llava_av.datasets.commits import find_commit\n"
        "from llava_av.datasets.sample_table import sample_table\n"
        "from llava_av.storage import ObjectStore\nstore = ObjectStore.from_env()\n"
        "table = sample_table(store, find_commit(store, 'd'), 'train', pathlib.Path(sys.argv[1]))\n"
        "print(len(tuple(table)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "tables")]
    environment = {**os.environ, **store_environment}
    workers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [worker.communicate(timeout=100)[0] for worker in workers] == ["300\n"] * 2
    assert isinstance(made.manifest, Manifest)
    for one in made.manifest.splits["train"].ranges:
        store.delete(blob_key(one.sha256))
    assert len(sample_table(store, made, "train", tmp_path / "tables")) == 300


def test_a_lost_range_leaves_no_table_and_old_ones_are_deleted(
    store: ObjectStore, made: Commit, tmp_path: Path
) -> None:
    tables = tmp_path / "tables"
    sample_table(store, made, "train", tables)
    [old] = (path for path in tables.iterdir() if path.is_dir())
    os.utime(old, (time.time() - 8 * 24 * 3600,) * 2)
    (tables / ".killed").mkdir()
    assert isinstance(made.manifest, Manifest)
    [first, *_] = made.manifest.splits["train"].ranges
    content = store.get_bytes(blob_key(first.sha256))
    other = commit(store, tmp_path / "in", {"train": tuple(odd_samples(tmp_path / "in", 200))})
    assert isinstance(other.manifest, Manifest)
    lost = other.manifest.splits["train"].ranges[-1].sha256
    kept = store.get_bytes(blob_key(lost))
    store.delete(blob_key(lost))
    with pytest.raises(CommitError, match="lost"):
        sample_table(store, find_commit(store, "d"), "train", tables)
    assert [path for path in tables.iterdir() if path.is_dir()] == []
    store.put_bytes(blob_key(lost), kept)
    store.put_bytes(blob_key(first.sha256), content)
    assert len(sample_table(store, other, "train", tables)) == 200
