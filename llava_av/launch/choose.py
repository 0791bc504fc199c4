"""The launcher by its name."""

from collections.abc import Mapping
from pathlib import Path

from llava_av.launch.api import Launcher, LaunchError
from llava_av.launch.local import LocalLauncher
from llava_av.launch.profile import JobProfile

__all__ = ["LAUNCHERS", "get_launcher"]

LAUNCHERS = ("local", "kubernetes")


def get_launcher(
    kind: str,
    *,
    logs: Path,
    profile: JobProfile | None = None,
    labels: Mapping[str, str] | None = None,
    adopt_finished: bool = True,
) -> Launcher:
    """The launcher by its name, as a pipeline's parameter gives it.

    Args:
        kind: `local` or `kubernetes`.
        logs: Folder for the output of each job, `<job name>.log`.
        profile: Where and with what jobs run; for `kubernetes` only.
        labels: Further labels of jobs on a cluster.
        adopt_finished: Whether a job on a cluster that has ended well is not run again.

    Raises:
        LaunchError: no such launcher, or one that lacks a profile.
    """
    if kind == "local":
        return LocalLauncher(logs)
    if kind != "kubernetes":
        raise LaunchError(f"no launcher {kind!r}; give one of: {', '.join(LAUNCHERS)}")
    if profile is None:
        raise LaunchError("the launcher kubernetes needs a profile, such as cpu of k8s/profiles")
    from llava_av.launch.kubernetes.launcher import KubernetesLauncher

    return KubernetesLauncher(logs, profile, labels=labels, adopt_finished=adopt_finished)
