"""Statistics of dataset commits, on a real object store."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from llava_av.datasets.commits import find_commit
from llava_av.datasets.measuring import measure_samples
from llava_av.datasets.media_facts import media_facts_keys
from llava_av.datasets.sources.folder import read_folder
from llava_av.media.clip import SampleSize
from llava_av.model.loading.fresh_model import fresh_model
from llava_av.recipe import load_recipe
from llava_av.storage import ObjectStore
from tests.dataset_folders import BELL, DAY, NIGHT, DataCommands, write_conversations, write_dataset
from tests.media_samples import RATE_HZ, click, write_grey_clip

pytestmark = pytest.mark.integration


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = write_dataset(tmp_path / "clips")
    write_grey_clip(folder / "grey.mp4", click(0.5))
    write_grey_clip(folder / "silent.mp4")
    videos = [
        {"id": "heard", "video": "grey.mp4", "split": "train"},
        {"id": "deaf", "video": "grey.mp4", "use_audio": False, "split": "train"},
        {"id": "silent", "video": "silent.mp4", "split": "held_out"},
        {"id": "text", "split": "held_out"},
    ]
    write_conversations(folder, [NIGHT, DAY, BELL, *videos])
    return folder


def test_statistics_count_media_and_samples(data: DataCommands, clips: Path) -> None:
    data.text("commit", clips)
    found = data.json("stats", "clips")
    assert found["modalities"] == {"image": 2, "video": 2, "audio": 1, "text": 1, "video+audio": 1}
    assert found["media"] == {"image": 2, "video": 2, "audio": 1}
    assert found["counts"]["splits"] == {"held_out": 3, "train": 4}
    assert found["resolutions"] == {"16x8": 2, "64x64": 2}
    assert found["frame_rates"] == {"8": 2}
    assert found["sample_rates_hz"] == {str(RATE_HZ): 2}
    assert found["hours"]["video"] == pytest.approx(4 / 3600, rel=0.01)
    assert found["hours"]["audio"] == pytest.approx(0.5 / 3600, rel=0.01)
    assert (found["duration_s"]["count"], found["unknown"]) == (3, 0)
    assert (found["answer_words"]["max"], found["answer_characters"]["mean"]) == (1, 3)
    assert data.json("stats", "clips", "--split", "train")["media"] == {"audio": 1, "image": 1, "video": 1}
    assert "2 16x8, 2 64x64" in data.text("stats", "clips")


def test_what_an_earlier_version_did_not_store_is_unknown(
    data: DataCommands, clips: Path, store_environment: Mapping[str, str]
) -> None:
    data.text("commit", clips)
    store = ObjectStore.from_env(store_environment)
    [key] = media_facts_keys(find_commit(store, "clips"))
    store.delete(key)
    found = data.json("stats", "clips")
    assert (found["unknown"], found["media"], found["duration_s"]) == (5, {}, None)
    assert found["modalities"] == {"image": 2, "video+?": 2, "audio": 1, "text": 1, "video": 1}
    assert "commit the folder again" in data.text("stats", "clips")


def test_tokens_of_a_recipe_are_those_of_training(data: DataCommands, clips: Path) -> None:
    data.text("commit", clips)
    recipe = load_recipe("dryrun")
    samples = read_folder(clips).samples
    texts = [turn.value for sample in samples if sample.split == "train" for turn in sample.conversations]
    processor = fresh_model(recipe, texts)[1]
    measured = measure_samples(clips, samples, recipe.media, processor)
    sizes = [size.tokens for size in measured if isinstance(size, SampleSize)]
    found = data.json("stats", "clips", "--recipe", "dryrun")["tokens"]
    assert (found["recipe"], found["unknown"], found["unfit"]) == ("dryrun", 0, len(samples) - len(sizes))
    # The audio track of a clip may be some packets longer than its video, whose length is stored.
    for name, expected in (("min", min(sizes)), ("max", max(sizes)), ("mean", sum(sizes) / len(sizes))):
        assert found["tokens"][name] == pytest.approx(expected, abs=1), name
