"""Ingest of a prefix in S3 by the pods of a PyTorchJob.

`LLAVA_AV_TRAIN_IMAGE`, `LLAVA_AV_PIPELINE_IMAGE` and `LLAVA_AV_MLFLOW_IMAGE` name the images, best by digest.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from llava_av.datasets.commits import find_commit
from llava_av.datasets.ingest_results import INGESTS
from llava_av.storage import ObjectStore
from llava_av.workflows.ingest.request import CommitRequest
from tests.cluster.services import Services
from tests.commands import llava_av
from tests.dataset_folders import SAMPLES, line, upload, write_dataset
from tests.media_samples import write_image

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

INGEST_S = 900
IMAGES = 300


@pytest.fixture(scope="module")
def prefix(services: Services, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a prefix with many images."""
    folder = write_dataset(tmp_path_factory.mktemp("raw") / "many")
    names = [f"media/{number}.png" for number in range(IMAGES)]
    pixels = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        write_image(folder / name, pixels.integers(0, 255, (32, 32, 3), np.uint8), "png")
    lines = [line(one) for one in (*SAMPLES, *({"id": name, "image": name} for name in names))]
    (folder / "conversations.jsonl").write_text("".join(lines))
    return upload(services.store(), folder, "raw/many")


def committed_here(prefix: str, store: ObjectStore) -> str:
    """Commit a prefix from this machine under another store's bucket, and return the ID."""
    store.ensure_bucket()
    request = CommitRequest(source=prefix, held_out_share=0.1, max_bad_share=0.05)
    return request.commit(store, None).commit


def test_pods_make_the_commit_of_one_process(services: Services, prefix: str, tmp_path: Path) -> None:
    expected = committed_here(prefix, services.store("calm"))
    arguments = ["data", "commit", prefix, "--launcher", "kubernetes", "--processes", "2", "--json"]
    arguments += [*services.job_options(), "--output-dir", str(tmp_path / "out")]
    code, output = llava_av(arguments, tmp_path, timeout_s=INGEST_S, environment=services.environment())
    assert code == 0, output
    done = json.loads(re.split(r"^(?=\{)", output, maxsplit=1, flags=re.MULTILINE)[-1])
    assert done["commit"] == expected
    assert find_commit(services.store(), "many").id == expected
    assert list(services.store().list(INGESTS)) == []
