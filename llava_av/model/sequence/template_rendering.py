"""Chat templates rendered within limits: size, CPU time, memory, depth and length of the text."""

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
from typing import Any

from llava_av.model.loading.weight_files import ModelFilesError

__all__ = ["TemplateRefusedError", "rendered"]

_WORKER = Path(__file__).with_name("template_worker.py")
_MOST_TEMPLATE_CHARACTERS = 256 * 1024
_MOST_TEXT_CHARACTERS = 16 * 1024**2
_CPU_S = 1
_MEMORY_BYTES = 1024**3


class TemplateRefusedError(ValueError):
    """A template raised an error about what it was given."""


def rendered(template: str, variables: Mapping[str, Any]) -> str:
    """Render a chat template in a process of its own, which all templates of this process share.

    Args:
        template: Jinja, as transformers' `apply_chat_template` takes it.
        variables: what the template finds by name; values that JSON can hold.

    Raises:
        TemplateRefusedError: the template raises an error about the variables, or is no Jinja.
        ModelFilesError: the template is larger, or takes more time, memory or text, than any chat needs.
    """
    if len(template) > _MOST_TEMPLATE_CHARACTERS:
        raise _over(f"it has {len(template)} characters, more than {_MOST_TEMPLATE_CHARACTERS}")
    # a forked child must not write into its parent's pipe
    answer = _shared(os.getpid()).answer({"template": template, "variables": dict(variables)})
    if "limit" in answer:
        raise _over(f"it exceeds {answer['limit']}")
    if "refused" in answer:
        raise TemplateRefusedError(answer["refused"])
    return str(answer["text"])


class _Renderer:
    """One worker process, started at the first template and again after a template that it had to end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, str]:
        """Return the worker's answer; a worker that a template ended answers with the limit."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(request) + "\n")
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
        if self._process is None:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", str(_WORKER)),
                    *(str(_CPU_S), str(_MEMORY_BYTES), str(_MOST_TEXT_CHARACTERS)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
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
    return f"its limits (the process that rendered it ended with {status})"


def _over(problem: str) -> ModelFilesError:
    return ModelFilesError(
        f"the tokenizer's chat template cannot be used: {problem}; use the template of the model's publisher "
        "(chat_template.jinja or chat_template in tokenizer_config.json)"
    )
