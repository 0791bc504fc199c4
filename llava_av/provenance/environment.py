"""Environment of a process: Python, machine, packages and image."""

import importlib.metadata
import os
import platform
import re
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from pydantic import Field

from llava_av.frozen import FrozenModel

__all__ = ["IMAGE_VARIABLE", "Environment", "package_versions", "this_environment"]

IMAGE_VARIABLE = "LLAVA_AV_IMAGE"
"""Variable with the name of a container's image."""


class Environment(FrozenModel):
    """Environment of a process."""

    python: str = Field(min_length=1)
    """Version of Python."""
    platform: str = Field(min_length=1)
    """Operating system and processor."""
    packages: dict[str, str] = Field(min_length=1)
    """Version of each installed package."""
    image: str | None
    """Image of the container, preferably by digest; None outside of a container."""
    job: str | None = None
    """Name of the pod's PyTorchJob; None outside of a cluster."""


def this_environment() -> Environment:
    """Return the environment of this process."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=package_versions(),
        image=os.environ.get(IMAGE_VARIABLE) or None,
        job=_job_of(platform.node()) if os.environ.get("KUBERNETES_SERVICE_HOST") else None,
    )


def _job_of(pod: str) -> str | None:
    """Return the name of the job to which a pod belongs, by the pod's name; None if it belongs to none."""
    match = re.fullmatch(r"(.+)-(?:master|worker)-[0-9]+", pod)
    return match[1] if match else None


def package_versions() -> dict[str, str]:
    """Return the version of each installed distribution by its normalized name (PEP 503), sorted."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        # Once imported, setuptools adds vendored copies to sys.path, which this code does not import.
        if "_vendor" in Path(str(distribution.locate_file(""))).parts:
            continue
        headers = _headers(distribution)
        if headers["Name"]:
            # Python imports the first distribution on sys.path.
            found.setdefault(re.sub(r"[-_.]+", "-", headers["Name"]).lower(), headers["Version"])
    return dict(sorted(found.items()))


def _headers(distribution: importlib.metadata.Distribution) -> Message:
    """Return the metadata without the description, whose thousands of lines take most of the time."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    return HeaderParser().parsestr(text.partition("\n\n")[0])
