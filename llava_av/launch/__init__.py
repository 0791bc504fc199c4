"""One interface behind which a job of several processes runs: on this machine, or on a cluster."""

from llava_av.launch.choose import LAUNCHERS, get_launcher
from llava_av.launch.interface import JobResult, JobSpec, Launcher, LaunchError
from llava_av.launch.local import LocalLauncher
from llava_av.launch.pods import WORK_FOLDER
from llava_av.launch.profile import JobProfile, ProfileError, load_profile

__all__ = [
    "LAUNCHERS",
    "WORK_FOLDER",
    "JobProfile",
    "JobResult",
    "JobSpec",
    "LaunchError",
    "Launcher",
    "LocalLauncher",
    "ProfileError",
    "get_launcher",
    "load_profile",
]
