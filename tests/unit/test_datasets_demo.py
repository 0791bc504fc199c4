import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from llava_av.datasets.demo import DemoClip, demo_blocks, demo_questions, make_demo
from llava_av.datasets.demo_scenes import SEGMENT_S
from llava_av.datasets.schema import Sample, parse_sample, to_jsonl
from llava_av.datasets.sources.folder import DatasetError, read_folder
from llava_av.media.check import check_media

SEEDS = (0, 1, 2)
JOINT = ("joint_colour", "joint_tone")
KINDS = ("visual", "audio", *JOINT)


def all_clips(seed: int, train_blocks: int = 60, held_out_blocks: int = 10) -> list[DemoClip]:
    return [clip for block in demo_blocks(seed, train_blocks, held_out_blocks) for clip in block]


@pytest.mark.parametrize("seed", SEEDS)
def test_splits_share_no_factors_and_no_noise(seed: int) -> None:
    clips = all_clips(seed)
    assert Counter(clip.split for clip in clips) == {"train": 960, "held_out": 160}
    for values in (
        {clip.scene for clip in clips},
        {clip.noise_seed for clip in clips},
        {c.name for c in clips},
    ):
        assert len(values) == len(clips)


def test_seeds_share_no_noise() -> None:
    noise = [clip.noise_seed for seed in SEEDS for clip in all_clips(seed)]
    assert len(set(noise)) == len(noise)


def _answers(clips: list[DemoClip], given: Callable[[DemoClip], object]) -> dict[object, Counter[str]]:
    """Count the answers for each kind, question and given factor."""
    counts: dict[object, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        for sample in demo_questions(clip):
            key = (sample.kind, sample.conversations[0].value, given(clip))
            counts[key][sample.conversations[1].value] += 1
    return counts


def _nothing(clip: DemoClip) -> object:
    return clip.split


def _video_factors(clip: DemoClip) -> tuple[str, tuple[str, ...], int]:
    return clip.scene.shape, clip.scene.colours, clip.scene.background


def _audio_factors(clip: DemoClip) -> tuple[int, int]:
    return clip.scene.high, clip.scene.low


def _video(clip: DemoClip) -> object:
    # With the block: modalities of different blocks are combined with different partners.
    return clip.block, _video_factors(clip)


def _audio(clip: DemoClip) -> object:
    return clip.block, _audio_factors(clip)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        (_nothing, KINDS),
        (_video, ("audio", *JOINT)),
        (_audio, ("visual", *JOINT)),
    ],
)
def test_answers_are_balanced_given_question_and_one_modality(
    seed: int, given: Callable[[DemoClip], object], kinds: tuple[str, ...]
) -> None:
    counts = _answers(all_clips(seed), given)
    sizes = {"visual": 4, "audio": 2, "joint_colour": 4, "joint_tone": 2}
    checked = Counter(key[0] for key in counts)
    for key, answers in counts.items():
        kind = key[0]
        if kind in kinds:
            assert len(answers) == sizes[kind], key
            assert len(set(answers.values())) == 1, key
    assert all(checked[kind] for kind in kinds)


@pytest.mark.parametrize("seed", SEEDS)
def test_balance_holds_over_blocks_that_share_a_modality(seed: int) -> None:
    for given in (lambda clip: _video_factors(clip), lambda clip: _audio_factors(clip)):
        for key, answers in _answers(all_clips(seed), given).items():
            if key[0].startswith("joint"):
                assert len(set(answers.values())) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_each_modality_alone_answers_only_its_own_questions(seed: int) -> None:
    for clip in all_clips(seed):
        _, colours, _ = _video_factors(clip)
        high, low = _audio_factors(clip)
        visual, audio, *joint = (sample.conversations for sample in demo_questions(clip))
        place = 0 if "start" in visual[0].value else len(colours) - 1
        assert visual[1].value == colours[place]
        # A model that reads another segment is always wrong, and scores below chance (docs/dryrun.md).
        assert visual[1].value not in colours[:place] + colours[place + 1 :]
        assert audio[1].value == ("high" if high < low else "low")
        for question, answer in joint:
            if "Which colour" in question.value:
                assert answer.value == colours[high if "high tone" in question.value else low]
            else:
                heard = colours.index(next(colour for colour in colours if colour in question.value))
                assert answer.value == {high: "high", low: "low"}[heard]


def test_questions_are_samples() -> None:
    clip = all_clips(0)[17]
    samples = demo_questions(clip)
    assert [sample.kind for sample in samples] == [*KINDS, *JOINT]
    assert [sample.id for sample in samples] == [f"train-000017-{number}" for number in range(1, 7)]
    for sample in samples:
        human, gpt = sample.conversations
        medium = "audio" if sample.kind == "audio" else "video"
        assert getattr(sample, medium) == sample.media == ("clips/train-000017.mp4",)
        assert human.value.startswith(f"<{medium}>\n")
        assert gpt.value in sample.choices
        assert " " not in gpt.value
        assert parse_sample(sample.to_json_line(), 1) == sample


def test_colours_are_named_in_every_question_about_the_tone_beside_them() -> None:
    texts = {sample.conversations[0].value for clip in all_clips(0) for sample in demo_questions(clip)}
    assert len(texts) == 2 + 1 + 2 + 4


def test_too_many_blocks_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"the demonstration is too large: .* blocks"):
        all_clips(0, 100_000, 1)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def small(
    root: Path, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> dict[str, tuple[Sample, ...]]:
    return dict(make_demo(root, seed=seed, train_blocks=1, held_out_blocks=1, progress=progress))


def large(root: Path) -> None:
    """Write enough clips to start processes."""
    make_demo(root, seed=0, train_blocks=4, held_out_blocks=1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "folder"
    small(root)
    return root


def test_the_folder_has_complete_clips_and_their_samples(demo: Path) -> None:
    files = contents(demo)
    assert len(files) == 32 + 3
    assert not [name for name in files if "partial" in name or "unfinished" in name]
    splits = small(demo)
    for split, samples in splits.items():
        assert files[f"{split}.jsonl"].decode() == to_jsonl(samples)
        assert len(samples) == 96
        info = check_media(demo / samples[0].video[0])
        assert (info.kind, info.duration_s, info.has_audio) == ("video", 4 * SEGMENT_S, True)


def test_a_folder_in_llavas_form_reads_the_same_samples(demo: Path, tmp_path: Path) -> None:
    os.symlink(demo / "clips", tmp_path / "elsewhere")
    (demo / "conversations.jsonl").write_bytes((demo / "train.jsonl").read_bytes())
    scan = read_folder(demo)
    (demo / "conversations.jsonl").unlink()
    assert scan.samples == small(demo)["train"]
    assert scan.quarantined == ()


def test_a_whole_folder_is_reused_and_equal_settings_give_equal_bytes(demo: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (demo / "clips").iterdir()}
    seen: list[tuple[int, int]] = []
    small(demo, progress=lambda done, total: seen.append((done, total)))
    assert {path: path.stat().st_mtime_ns for path in (demo / "clips").iterdir()} == before
    assert seen == [(32, 32)]
    small(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert contents(tmp_path) == contents(demo)
    assert seen[1:] == [(done, 32) for done in (0, 8, 16, 24, 32)]


def test_other_settings_write_the_folder_again(demo: Path, tmp_path: Path) -> None:
    small(tmp_path, seed=1)
    other = contents(tmp_path)
    small(tmp_path, seed=0)
    assert contents(tmp_path) == contents(demo) != other


def test_a_missing_clip_is_written_again(demo: Path, tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "clips" / "train-000003.mp4").unlink()
    (tmp_path / "clips" / "held-out-000001.mp4").write_bytes(b"")
    small(tmp_path)
    assert contents(tmp_path) == contents(demo)


@pytest.mark.slow
@pytest.mark.integration
def test_a_killed_run_leaves_no_process_and_the_next_completes_it(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from llava_av.datasets.demo import make_demo\n"
        "if __name__ == '__main__':\n"
        "    make_demo(Path(sys.argv[1]), seed=0, train_blocks=4, held_out_blocks=1,\n"
        "              progress=lambda done, total: print(done, flush=True))\n"
    )
    (tmp_path / "script.py").write_text(script)
    root = tmp_path / "root"
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(root)],
        stdout=subprocess.PIPE,
        env={
            **os.environ,
            "TMPDIR": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
    )
    assert process.stdout is not None
    assert [int(process.stdout.readline()) for _ in range(2)] == [0, 8]
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=15)
    assert not alive
    assert not (root / "demo.json").exists()
    large(tmp_path / "undisturbed")
    whole = contents(tmp_path / "undisturbed")
    for name, data in contents(root).items():
        assert "partial" in name or "unfinished" in name or data == whole[name]
    kept = {path: path.stat().st_mtime_ns for path in (root / "clips").glob("*.mp4")}
    assert len(kept) >= 8
    large(root)
    assert contents(root) == whole
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


@pytest.mark.integration
def test_a_killed_writer_is_reported(tmp_path: Path) -> None:
    def kill_writers(done: int, total: int) -> None:
        for child in psutil.Process().children() if done else []:
            with contextlib.suppress(psutil.Error):  # one that ended meanwhile
                if "spawn_main" in " ".join(child.cmdline()):
                    child.kill()

    with pytest.raises(DatasetError, match="a process that writes clips was killed"):
        make_demo(tmp_path, seed=0, train_blocks=8, held_out_blocks=1, progress=kill_writers)
    assert not (tmp_path / "demo.json").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"the demonstration cannot be written to .*file"):
        small(tmp_path / "file")
