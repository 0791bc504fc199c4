"""YAML of manifests, quoted such that kubectl reads the same values."""

import re
from collections.abc import Iterable, Mapping

import yaml

__all__ = ["manifest_yaml"]

# PyYAML follows YAML 1.1, in which these are strings. kubectl follows YAML 1.2 and reads numbers.
_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+|0o[0-7]+")


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper that quotes strings which YAML 1.2 reads as numbers, such as the digest `3006e27`."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, "'" if _NUMBER.fullmatch(text) else None)


_Dumper.add_representer(str, _quoted)


def manifest_yaml(manifests: Iterable[Mapping[str, object]], *, width: int = 1000) -> str:
    """Return manifests as YAML documents, with their keys in the given order.

    Args:
        manifests: Kubernetes objects.
        width: Characters after which a long string continues on the next line.
    """
    return str(yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=width))
