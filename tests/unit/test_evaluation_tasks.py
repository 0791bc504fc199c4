"""Real readers on hand-written rows in each published format."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_av.datasets.loading import load_clip
from llava_av.datasets.media_source import FolderMedia
from llava_av.evaluation.answering import AnswerCache, Answerer
from llava_av.evaluation.question_batches import Questions
from llava_av.evaluation.reply_parsing import RULES
from llava_av.evaluation.tasks import TaskError, load_task, read_task_samples, task_names
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor
from llava_av.vocabulary import Ablation
from tests.benchmark_samples import AVQA, DAILY_OMNI, FILES, MUSIC_AVQA, OWN, own_questions, write
from tests.media_samples import RATE_HZ, click, write_audio, write_grey_clip
from tests.model_samples import tiny_model


def read(tmp_path: Path, task: str, content: Any = None) -> dict[str, Any]:
    samples = read_task_samples(load_task(task), write(tmp_path / task, task, content))
    return {sample.id: sample for sample in samples}


def test_every_benchmark_has_its_file_and_its_rows_here() -> None:
    assert set(task_names()) == set(FILES)
    for name in task_names():
        task = load_task(name)
        assert (task.name, task.note().prompt) == (name, task.prompt)
        assert task.note().rule_version == RULES[task.rule].version


def test_daily_omni(tmp_path: Path) -> None:
    first = read(tmp_path, "daily-omni")["v-1-1"]
    assert first.conversations[0].value == (
        "<video>\nWhat is on screen when the whistle blows?\n"
        "A. A kettle.\nB. A train.\nC. A referee.\nD. A bird.\n"
        "Answer with the letter of the right choice."
    )
    assert (first.conversations[1].value, first.kind) == ("C", "joint_av-event-alignment")
    assert (first.choices[2], first.video) == ("A referee.", ("Videos/v-1/v-1_video.mp4",))
    # Some copies of the file have choices without letters; here a choice begins with a one-letter word.
    second = read(tmp_path, "daily-omni")["v-1-2"]
    assert second.choices == ("Applause", "Silence", "A song", "Rain")
    assert second.conversations[1].value == "A"


def test_worldsense(tmp_path: Path) -> None:
    found = read(tmp_path, "worldsense")
    assert sorted(found) == ["abc-task0", "abc-task1"]
    assert found["abc-task0"].kind == "joint_audio-counting"
    assert (found["abc-task0"].conversations[1].value, found["abc-task0"].choices[1]) == ("B", "Two.")
    assert found["abc-task1"].choices == ("Glad.", "Sad.")


def test_avqa(tmp_path: Path) -> None:
    (sample,) = read(tmp_path, "avqa").values()
    assert (sample.id, sample.kind, sample.conversations[1].value) == ("7", "audio_happening", "C")
    assert sample.video == ("videos/-x_000030.mp4",)


def test_music_avqa(tmp_path: Path) -> None:
    found = read(tmp_path, "music-avqa")
    assert "Where is the first sounding acoustic guitar?" in found["11"].conversations[0].value
    assert (found["11"].kind, found["12"].kind) == ("joint_location", "audio_counting")
    assert found["11"].choices == found["12"].choices == ("left", "more than ten")
    assert found["12"].video == ("MUSIC-AVQA-videos-Synthetic/00000002.mp4",)


def test_clotho_aqa_takes_what_two_people_agree_on(tmp_path: Path) -> None:
    found = read(tmp_path, "clotho-aqa")
    answers = [(sample.kind, sample.conversations[1].value) for sample in found.values()]
    assert answers == [("audio_yes-no", "yes"), ("audio_word", "2")]
    assert next(iter(found.values())).audio == ("audio_files/rain, late.wav",)


@pytest.mark.parametrize("answer", ["C", "c", "(C)", "C.", "C)", "C:"])
def test_a_right_answer_is_a_letter_with_or_without_marks(tmp_path: Path, answer: str) -> None:
    (sample,) = read(tmp_path, "daily-omni", [{**DAILY_OMNI[0], "Answer": answer}]).values()
    assert sample.conversations[1].value == "C"


def test_lines_end_where_lines_end(tmp_path: Path) -> None:
    """Separators such as U+2028, which texts from the web contain, do not end a line."""
    question = "What rings\u2028before\x85the door?"
    own = {**OWN, "question": question}
    text = json.dumps(own, ensure_ascii=False)
    assert question in text
    (first, second) = own_questions(tmp_path, f"{text}\r\n\n{json.dumps({**own, 'id': '2'})}\n")
    assert question in first.conversations[0].value
    assert first.conversations == second.conversations
    with pytest.raises(TaskError, match=r"questions\.jsonl line 3 is not JSON"):
        own_questions(tmp_path, f"{text}\n\n{{")
    cells = f'file_name,QuestionText,answer,confidence\n"rain, late.wav","{question}\nSay.",yes,yes\n'
    (sample,) = read(tmp_path, "clotho-aqa", cells).values()
    assert f"{question}\nSay." in sample.conversations[0].value
    with pytest.raises(TaskError, match=r"csv line 4: answer ''"):
        read(tmp_path, "clotho-aqa", f"{cells}a.wav,What?,,yes\n")


def without(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != column} for row in rows]


@pytest.mark.parametrize(
    ("task", "content", "said"),
    [
        (
            "daily-omni",
            without(DAILY_OMNI, "Choice"),
            r"qa\.json row 1 has no column Choice.* video_id",
        ),
        ("daily-omni", [{**DAILY_OMNI[0], "Answer": "E"}], r"row 1: answer 'E' .*letter of one of its 4"),
        ("daily-omni", {"a": 1}, "list of questions, not dict"),
        ("daily-omni", "[{", r"qa\.json is not JSON"),
        ("daily-omni", [], "daily-omni: .*no questions in"),
        ("daily-omni", [7], "row 1 .*mapping.* not int"),
        ("daily-omni", [{**DAILY_OMNI[0], "Question": "<|im_end|>"}], "row 1 .*not a question: .*reserved"),
        ("avqa", [{**AVQA[0], "answer": 4}], "row 1: answer 4 .*index of its 4 choices"),
        ("avqa", [{**AVQA[0], "question_relation": "Smell"}], "'Smell' .*one of View, Sound, Both"),
        ("avqa", AVQA * 2, "questions in .* id 7"),
        (
            "music-avqa",
            [{**MUSIC_AVQA[0], "templ_values": "[]"}],
            "question_content has 2 slots.* 0 templ_values",
        ),
        ("music-avqa", without(MUSIC_AVQA, "anser"), "row 1 has no column anser"),
        ("clotho-aqa", "file_name,answer\na.wav,yes\n", "line 2 has no column QuestionText"),
        ("worldsense", {"abc": {"task0": {}}}, "video abc has no column audio_class"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(
    tmp_path: Path, task: str, content: Any, said: str
) -> None:
    with pytest.raises(TaskError, match=said) as refused:
        read(tmp_path, task, content)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def asking() -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    return tiny_model()


@pytest.mark.parametrize("task", sorted(FILES))
def test_published_rows_are_asked_about_their_own_decoded_media(
    tmp_path: Path, task: str, asking: tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]
) -> None:
    folder, clicks = write(tmp_path / "data", task), {}
    for number, file in enumerate(FILES[task][2]):
        clicks[file] = 0.3 + 0.4 * number
        if file.endswith(".wav"):
            write_audio(folder / file, click(clicks[file])[None], RATE_HZ, "pcm_s16le")
        else:
            write_grey_clip(folder / file, click(clicks[file]))
    model, processor = asking
    questions = Questions(FolderMedia(folder), read_task_samples(load_task(task), folder), seed=0)
    decode = partial(load_clip, media=processor.config.media_recipe())
    answerer = Answerer(model, processor, max_new_tokens=4, rule=load_task(task).rule)
    (batch,) = questions.decoded(questions.batches(64), decode)
    assert {file for question in batch for file in question.sample.media} == set(clicks)
    for question in batch:
        (file,) = question.sample.media
        audios = [*question.clip.audios, *(video.audio for video in question.clip.videos)]
        (click_s,) = (np.abs(audio).argmax() / processor.config.sample_rate_hz for audio in audios)
        # AAC spreads 5 ms of noise
        assert click_s == pytest.approx(clicks[file], abs=0.02)
        assert [len(video.frames_nhwc) > 1 for video in question.clip.videos] == [True] * file.endswith("mp4")
    for ablation in Ablation:
        answers = answerer.answer(batch, ablation, AnswerCache()).predictions
        assert [answer.id for answer in answers] == [question.sample.id for question in batch]
        assert all(
            answer.loss > 0 and answer.answer in (answer.choices or (answer.answer,)) for answer in answers
        )


@pytest.mark.parametrize("task", sorted(FILES))
def test_missing_media_are_refused_by_name(tmp_path: Path, task: str) -> None:
    folder = write(tmp_path / "data", task, media=False)
    with pytest.raises(TaskError, match=r"missing .*\.(mp4|wav).* in .*data") as refused:
        read_task_samples(load_task(task), folder)
    assert "\n" not in str(refused.value)


def test_a_missing_folder_file_or_task_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"folder .*absent does not exist.*qa\.json"):
        read_task_samples(load_task("daily-omni"), tmp_path / "absent")
    with pytest.raises(TaskError, match=r"qa\.json is missing"):
        read_task_samples(load_task("daily-omni"), tmp_path)
    with pytest.raises(TaskError, match=r"no task 'dayly-omni'; .*avqa, clotho-aqa, daily-omni"):
        load_task("dayly-omni")
    with pytest.raises(TaskError, match=r"held-out .*without --task"):
        load_task("held-out")
