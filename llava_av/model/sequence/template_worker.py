"""Process that renders chat templates, so that a template can be stopped at any time.

A template comes with a model and is its author's code: it may loop for hours or allocate all memory. Jinja's
sandbox keeps it from files and from Python's internals, and this process limits its CPU time and memory.
`template_rendering` runs this file as a script, which imports only Jinja and starts quickly.

The process reads one JSON object per line, `{"template": …, "variables": …}`, and answers each with one line:
`{"text": …}`, `{"refused": …}` if the template raises, or `{"limit": …}`. It ends when its input ends. A
template finds the variables and functions of transformers' `apply_chat_template`.
"""

import contextlib
import datetime
import functools
import json
import resource
import signal
import sys
from typing import Any, TypedDict

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class _Request(TypedDict):
    template: str
    variables: dict[str, object]


class _Generation(Extension):
    """Tag `{% generation %}`, which marks the assistant's text and does not change it."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the body of the tag."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Dict:
    """Type `dict` without its attributes."""

    def __call__(self, *args: Any, **items: Any) -> dict[Any, Any]:
        return dict(*args, **items)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Return a dictionary with these keys."""
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """Jinja's namespace without names that start with an underscore, which would reach Python's internals."""

    def __init__(self, *args: Any, **items: Any) -> None:
        for name in dict(*args, **items):
            _require_public(name)
        super().__init__(*args, **items)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_public(name)
        super().__setitem__(name, value)


def _require_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


def _raise(message: str) -> None:
    raise TemplateError(message)


def _json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


@functools.lru_cache(maxsize=8)
def _compiled(text: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _json
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": _now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment.from_string(text)


def _answer(request: _Request, most_characters: int) -> dict[str, str]:
    try:
        pieces, length = [], 0
        for piece in _compiled(request["template"]).generate(**request["variables"]):
            length += len(piece)
            if length > most_characters:
                return {"limit": f"{most_characters} characters of text"}
            pieces.append(piece)
        return {"text": "".join(pieces)}
    except MemoryError:
        return {"limit": "its memory"}
    except RecursionError:
        return {"limit": "Python's depth of calls"}
    except Exception as error:  # a template may raise anything
        return {"refused": str(error) or type(error).__name__}


def _main(cpu_s: float, memory_bytes: int, most_characters: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):  # macOS has no limit on the address space
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    for line in sys.stdin:
        # its signal kills this process even inside a C function
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        answer = json.dumps(_answer(json.loads(line), most_characters))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
