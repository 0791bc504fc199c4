"""Profile of training steps: which steps it has."""

from pathlib import Path

import pytest

from llava_av.training.profiling import TABLE, TRACE, StepProfiler


@pytest.mark.parametrize(
    ("stages", "profiled"),
    [([5], 3), ([4], 3), ([3], 2), ([1, 3], 2), ([2, 5], 1), ([1], 0)],
    ids=str,
)
def test_the_steps_after_the_first_of_a_stage_are_profiled(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    stages: list[int],
    profiled: int,
) -> None:
    caplog.set_level("INFO")
    kept: list[Path] = []
    profiler = StepProfiler(3, tmp_path, kept.append)
    for steps in stages:
        for _ in range(steps):
            with profiler.part("forward"):
                pass
            profiler.stepped()
        profiler.finish()
    assert [path.name for path in kept] == ([TRACE, TABLE] if profiled else [])
    assert (f"profile of {profiled} step" in caplog.text) == bool(profiled)
    assert "Profiler" not in capfd.readouterr().err
