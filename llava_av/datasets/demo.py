"""Demonstration dataset: clips of drawn scenes on disk, with six questions about each.

The design of `llava_av.datasets.demo_scenes` balances the answers: within a block of 16 clips with the same
six questions, all answers are equally frequent, over the whole block and given one modality alone (except
the modality that the question is about).
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from llava_av.datasets import demo_scenes
from llava_av.datasets.demo_scenes import (
    COLOURS,
    FPS,
    SAMPLE_RATE_HZ,
    Scene,
    render_scene,
    scene_blocks,
)
from llava_av.datasets.schema import Sample, Turn, to_jsonl
from llava_av.datasets.sources.folder import DatasetError
from llava_av.datasets.split import Split
from llava_av.files import PART, write_whole
from llava_av.media import encode
from llava_av.media.encode import write_clip
from llava_av.processes import LIFELINE_VARIABLE, Lifeline, watch_lifeline
from llava_av.processes.progress import ProgressCallback

__all__ = ["DemoClip", "demo_blocks", "demo_questions", "make_demo", "write_demo_clips"]

_MARKER = "demo.json"
_UNFINISHED = "demo.unfinished.json"
_CLIPS = "clips"
_PROCESSES = 2
_BATCH = 8
# Starting two processes takes longer than writing this many clips.
_FEW = 64
_SEED_STRIDE = 1_000_000
_TONES = ("high", "low")
_ENDS = (("start", 0), ("end", -1))

Splits = dict[Split, tuple[Sample, ...]]


@dataclass(frozen=True, kw_only=True)
class DemoClip:
    """One clip of the demonstration: its factors, its noise and its path."""

    split: Split
    name: str
    """Unique, such as `train-000123`."""
    block: int
    """Number of its block, counted over both splits from 0; all clips of a block have the same questions."""
    scene: Scene
    noise_seed: int
    """Unique among all clips of all seeds."""

    @property
    def path(self) -> str:
        """Path relative to the dataset's folder."""
        return f"{_CLIPS}/{self.name}.mp4"


def demo_blocks(seed: int, train_blocks: int, held_out_blocks: int) -> Iterator[tuple[DemoClip, ...]]:
    """Yield the clips of the demonstration block by block: first the training set, then the held-out set.

    No two clips share their scene or their noise.

    Raises:
        DatasetError: There are not enough distinct scenes for this many blocks.
    """
    try:
        chosen = scene_blocks(seed, train_blocks + held_out_blocks)
    except ValueError as error:
        raise DatasetError(f"the demonstration is too large: {error}; reduce the number of blocks") from None
    for block, scenes in enumerate(chosen):
        split: Split = "train" if block < train_blocks else "held_out"
        first = (block if split == "train" else block - train_blocks) * len(scenes)
        yield tuple(
            DemoClip(
                split=split,
                name=f"{split.replace('_', '-')}-{first + offset:06d}",
                block=block,
                scene=one,
                noise_seed=seed * _SEED_STRIDE + block * len(scenes) + offset,
            )
            for offset, one in enumerate(scenes)
        )


def demo_questions(clip: DemoClip) -> tuple[Sample, ...]:
    """Return the six samples of a clip: one about video, one about audio, four about both in time."""
    drawn = clip.scene
    # Neighbouring blocks ask about opposite ends, so that a model must read the question.
    end, moment = _ENDS[clip.block % 2]
    asked: list[tuple[str, str, str, tuple[str, ...]]] = [
        ("visual", f"Which colour is shown at the {end}?", drawn.colours[moment], COLOURS)
    ]
    first_tone = "high" if drawn.high < drawn.low else "low"
    asked.append(("audio", "Which tone sounds first?", first_tone, _TONES))
    for tone, moment in (("high", drawn.high), ("low", drawn.low)):
        colour = drawn.colours[moment]
        asked.append(("joint_colour", f"Which colour is shown during the {tone} tone?", colour, COLOURS))
        asked.append(("joint_tone", f"Which tone sounds while {colour} is shown?", tone, _TONES))
    return tuple(
        _sample(clip, number, kind, question, answer, choices)
        for number, (kind, question, answer, choices) in enumerate(asked, start=1)
    )


def make_demo(
    root: Path,
    *,
    seed: int,
    train_blocks: int,
    held_out_blocks: int,
    progress: ProgressCallback | None = None,
) -> Splits:
    """Write the demonstration dataset to a folder; write only missing files if it exists.

    Clips are written atomically and a marker is written last, so a run that was killed is completed by the
    next. A folder made with other settings or by other code is written again.

    Args:
        root: Folder for `clips/*.mp4`, `train.jsonl` and `held_out.jsonl`.
        seed: Seed of scenes and noise.
        train_blocks: Blocks of 16 clips in the training set.
        held_out_blocks: Blocks of 16 clips in the held-out set.
        progress: Called with the number of existing clips and of all clips.

    Returns:
        The samples of `train` and of `held_out`, with paths relative to `root`.

    Raises:
        DatasetError: There are too many blocks, or the folder cannot be written.
        MediaError: A clip cannot be written.
    """
    plan = [clip for block in demo_blocks(seed, train_blocks, held_out_blocks) for clip in block]
    made_from = _made_from(seed, train_blocks, held_out_blocks)
    try:
        missing = _prepare(root, plan, made_from)
        _write_clips(root, missing, len(plan), progress)
        splits = _splits(plan)
        for split, samples in splits.items():
            write_whole(root / f"{split}.jsonl", to_jsonl(samples))
        write_whole(root / _MARKER, made_from)
        (root / _UNFINISHED).unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(
            f"the demonstration cannot be written to {root}: {error.strerror or error}"
        ) from None
    return splits


def _sample(
    clip: DemoClip, number: int, kind: str, question: str, answer: str, choices: tuple[str, ...]
) -> Sample:
    # Audio questions come without frames: with frames, tones are learnt late, and joint questions need them.
    medium = "audio" if kind == "audio" else "video"
    turns = (
        Turn(speaker="human", value=f"<{medium}>\n{question}"),
        Turn(speaker="gpt", value=answer),
    )
    return Sample(
        id=f"{clip.name}-{number}",
        conversations=turns,
        video=(clip.path,) if medium == "video" else (),
        audio=(clip.path,) if medium == "audio" else (),
        kind=kind,
        choices=choices,
    )


def _splits(plan: list[DemoClip]) -> Splits:
    samples = [(clip.split, sample) for clip in plan for sample in demo_questions(clip)]
    return {
        "train": tuple(sample for split, sample in samples if split == "train"),
        "held_out": tuple(sample for split, sample in samples if split == "held_out"),
    }


def _made_from(seed: int, train_blocks: int, held_out_blocks: int) -> str:
    """Return everything that determines the bytes of the dataset, as canonical JSON."""
    code = hashlib.sha256()
    for file in (demo_scenes.__file__, encode.__file__, __file__):
        code.update(Path(file).read_bytes())
    settings = {"seed": seed, "train_blocks": train_blocks, "held_out_blocks": held_out_blocks}
    return json.dumps(
        {**settings, "code": code.hexdigest(), "encoder": encode.encoder_version()}, sort_keys=True
    )


def _prepare(root: Path, plan: list[DemoClip], made_from: str) -> list[DemoClip]:
    """Prepare the folder and return the clips that it lacks."""
    clips = root / _CLIPS
    if made_from not in (_text(root / _MARKER), _text(root / _UNFINISHED)):
        (root / _MARKER).unlink(missing_ok=True)
        if clips.exists():
            shutil.rmtree(clips)
    clips.mkdir(parents=True, exist_ok=True)
    existing = {entry.name for entry in os.scandir(clips) if entry.stat().st_size}
    missing = [clip for clip in plan if f"{clip.name}.mp4" not in existing]
    if missing:
        write_whole(root / _UNFINISHED, made_from)
        (root / _MARKER).unlink(missing_ok=True)
        for stale in clips.glob(f".*{PART}"):
            stale.unlink()
    return missing


def _write_clips(root: Path, missing: list[DemoClip], total: int, progress: ProgressCallback | None) -> None:
    done = total - len(missing)
    if progress is not None:
        progress(done, total)
    batches = [missing[start : start + _BATCH] for start in range(0, len(missing), _BATCH)]
    write = _write_here if len(missing) <= _FEW else _write_in_processes
    with closing(write(root, batches)) as counts:
        for written in counts:
            done += written
            if progress is not None:
                progress(done, total)


def _write_here(root: Path, batches: list[list[DemoClip]]) -> Generator[int, None, None]:
    for batch in batches:
        yield write_demo_clips(root, batch)


def _write_in_processes(root: Path, batches: list[list[DemoClip]]) -> Generator[int, None, None]:
    """Write batches in processes; threads would wait for each other while drawing and encoding."""
    try:
        with Lifeline() as lifeline, _pool(lifeline) as pool:
            jobs = [pool.submit(write_demo_clips, root, batch) for batch in batches]
            try:
                for job in as_completed(jobs):
                    yield job.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    except BrokenProcessPool:
        raise DatasetError("a process that writes clips was killed: run again to write the rest") from None


def _pool(lifeline: Lifeline) -> ProcessPoolExecutor:
    """Return two spawned processes that end with this one; a fork would copy locks of threads."""
    return ProcessPoolExecutor(
        _PROCESSES,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(str(lifeline.path),),
    )


def _start_worker(lifeline: str) -> None:
    # The parent handles Ctrl-C, and its end ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[LIFELINE_VARIABLE] = lifeline
    watch_lifeline()


def write_demo_clips(root: Path, clips: Sequence[DemoClip]) -> int:
    """Draw and encode clips into a dataset's folder, and return their number."""
    for clip in clips:
        frames_nhwc, audio = render_scene(clip.scene, clip.noise_seed)
        write_clip(root / clip.path, frames_nhwc, FPS, audio, SAMPLE_RATE_HZ)
    return len(clips)


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
