"""What code runs in: Python, machine, packages and image."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from pydantic import Field

from llava_av.frozen import FrozenModel

__all__ = ["IMAGE_VARIABLE", "Environment", "package_versions", "this_environment"]

IMAGE_VARIABLE = "LLAVA_AV_IMAGE"
"""Variable by which a container knows the name of the image that it was made from."""


class Environment(FrozenModel):
    """What a process ran in."""

    python: str = Field(min_length=1)
    """Python's version."""
    platform: str = Field(min_length=1)
    """Operating system and processor."""
    packages: dict[str, str] = Field(min_length=1)
    """Version of each installed package."""
    image: str | None
    """Image of the container, best by digest; None outside of one."""
    job: str | None = None
    """Name of the PyTorchJob whose pod it was; None outside of a cluster."""


def this_environment() -> Environment:
    """What this process runs in."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=package_versions(),
        image=os.environ.get(IMAGE_VARIABLE) or None,
        job=_job_of(platform.node()) if os.environ.get("KUBERNETES_SERVICE_HOST") else None,
    )


def _job_of(pod: str) -> str | None:
    """The job that a pod is named after; None if it is no job's."""
    match = re.fullmatch(r"(.+)-(?:master|worker)-[0-9]+", pod)
    return match[1] if match else None


def package_versions() -> dict[str, str]:
    """Version of each installed distribution by its normalised name (PEP 503), sorted."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        # setuptools, once imported, puts copies of others on sys.path that nothing of ours imports
        if name and "_vendor" not in Path(str(distribution.locate_file(""))).parts:
            # of two of one name the first on sys.path is the one that is imported
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return dict(sorted(found.items()))
