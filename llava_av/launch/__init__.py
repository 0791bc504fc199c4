"""One interface behind which a job of several processes runs: on this machine, or on a cluster."""

from llava_av.launch.api import JobResult, JobSpec, Launcher, LaunchError
from llava_av.launch.choose import LAUNCHERS, get_launcher
from llava_av.launch.kubernetes.manifest import PIPELINE_LABEL
from llava_av.launch.kubernetes.orphans import delete_jobs, pipeline_runs_with_jobs
from llava_av.launch.kubernetes.pod_template import CA_FOLDER, TRUST_VARIABLES, WORK_FOLDER
from llava_av.launch.local import LocalLauncher
from llava_av.launch.profile import (
    DEFAULT_CREDENTIALS_SECRET,
    DEFAULT_SERVICES_CONFIG_MAP,
    JobProfile,
    ProfileError,
    is_pinned,
    load_profile,
    profile_folder,
)

__all__ = [
    "CA_FOLDER",
    "DEFAULT_CREDENTIALS_SECRET",
    "DEFAULT_SERVICES_CONFIG_MAP",
    "LAUNCHERS",
    "PIPELINE_LABEL",
    "TRUST_VARIABLES",
    "WORK_FOLDER",
    "JobProfile",
    "JobResult",
    "JobSpec",
    "LaunchError",
    "Launcher",
    "LocalLauncher",
    "ProfileError",
    "delete_jobs",
    "get_launcher",
    "is_pinned",
    "load_profile",
    "pipeline_runs_with_jobs",
    "profile_folder",
]
