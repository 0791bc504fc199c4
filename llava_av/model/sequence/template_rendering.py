"""Chat templates rendered within limits on size, CPU time, memory, recursion and length of the text."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path

from llava_av.model.files.reading import ModelFilesError

__all__ = ["TemplateRefusedError", "render_chat_template"]

_WORKER = Path(__file__).with_name("template_worker.py")
_MAX_TEMPLATE_CHARACTERS = 256 * 1024
_MAX_TEXT_CHARACTERS = 16 * 1024**2
_CPU_S = 1
_MEMORY_BYTES = 1024**3


class TemplateRefusedError(ValueError):
    """A template raised an error about its variables."""


def render_chat_template(template: str, variables: Mapping[str, object]) -> str:
    """Render a chat template in a process of its own, which all templates of this process share.

    Args:
        template: Jinja, as transformers' `apply_chat_template` takes it.
        variables: Variables of the template; values must be JSON.

    Raises:
        TemplateRefusedError: The template raises an error about the variables, or is not valid Jinja.
        ModelFilesError: The template exceeds a limit; names it.
    """
    if len(template) > _MAX_TEMPLATE_CHARACTERS:
        raise _over_limit(f"it has {len(template)} characters, must be ≤ {_MAX_TEMPLATE_CHARACTERS}")
    # a forked child must not write to its parent's pipe
    answer = _shared(os.getpid()).answer(template, variables)
    if "limit" in answer:
        raise _over_limit(f"it exceeds {answer['limit']}")
    if "refused" in answer:
        raise TemplateRefusedError(answer["refused"])
    return str(answer["text"])


class _Renderer:
    """Worker process, started with the first template and restarted after its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def answer(self, template: str, variables: Mapping[str, object]) -> dict[str, str]:
        """Return the worker's answer; if the worker was killed, the answer names the limit."""
        request = json.dumps({"template": template, "variables": dict(variables)})
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(request + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
            if not line.endswith("\n"):
                self._process = None
                return {"limit": _reason(process.wait())}
        answer: dict[str, str] = json.loads(line)
        return answer

    def _running(self) -> subprocess.Popen[str]:
        # one that has ended was killed between two templates, which says nothing about the next one
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", str(_WORKER)),
                    *(str(_CPU_S), str(_MEMORY_BYTES), str(_MAX_TEXT_CHARACTERS)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                # It ends when its input ends, and must render while this process ends in order after SIGTERM,
                # which torchrun sends to process groups.
                start_new_session=True,
            )
            weakref.finalize(self, _end, self._process, os.getpid())
        return self._process


@functools.lru_cache(maxsize=1)
def _shared(process: int) -> _Renderer:
    """Return the renderer of the process with this ID."""
    return _Renderer()


def _end(process: subprocess.Popen[str], parent: int) -> None:
    if os.getpid() == parent:
        process.kill()
        process.communicate()


def _reason(status: int) -> str:
    if status == -signal.SIGPROF:
        return f"{_CPU_S} s of CPU time"
    return f"its limits (the rendering process ended with status {status})"


def _over_limit(problem: str) -> ModelFilesError:
    return ModelFilesError(
        f"the tokenizer's chat template cannot be used: {problem}; use the template of the model's publisher "
        "(chat_template.jinja, or chat_template in tokenizer_config.json)"
    )
