"""One interface behind which a job of several processes runs: here, or later on a cluster."""

from llava_av.launch.interface import JobResult, JobSpec, Launcher, LaunchError
from llava_av.launch.local import LocalLauncher, get_launcher

__all__ = ["JobResult", "JobSpec", "LaunchError", "Launcher", "LocalLauncher", "get_launcher"]
