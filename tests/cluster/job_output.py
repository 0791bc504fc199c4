"""Output of a job on a cluster without the launcher's lines."""

from collections.abc import Callable

from llava_av.launch import JobSpec, Launcher

_LAUNCHER_LINES = (
    "created PyTorchJob",
    "adopted the existing PyTorchJob",
    "deleting the previous job",
    "warning: ",
)


def run_and_collect(
    launcher: Launcher, spec: JobSpec, on_line: Callable[[str], None] | None = None
) -> tuple[str, ...]:
    """Run a job and return its output lines."""
    lines: list[str] = []

    def take(line: str) -> None:
        if not line.startswith(_LAUNCHER_LINES):
            lines.append(line)
        if on_line is not None:
            on_line(line)

    launcher.run(spec, on_line=take)
    return tuple(lines)
