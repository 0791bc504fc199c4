"""Jobs: groups of processes that train, evaluate or read data, on this machine or on a Kubernetes cluster.

`api.py` defines a job (`JobSpec`), its result, and the `Launcher` protocol that both launchers implement.
`local_launcher.py` runs a job as processes of this machine, several of them under torchrun. `kubernetes/`
runs it as a PyTorchJob; `profile.py` describes the resources and the image that such a job gets. Both
launchers read the job's output with `log_cause.py`, which finds the line that says why the job failed.
`session_keys.py` issues temporary S3 keys for a job, restricted to the permissions in `rights.py`.
"""

from llava_av.launch.api import JobResult, JobSpec, Launcher, LaunchError
from llava_av.launch.kubernetes.launcher import KubernetesLauncher
from llava_av.launch.kubernetes.orphans import delete_jobs, pipeline_runs_with_jobs
from llava_av.launch.kubernetes.pod_template import CA_FOLDER, TRUST_VARIABLES, WORK_FOLDER
from llava_av.launch.kubernetes.pytorchjob import PIPELINE_LABEL
from llava_av.launch.local_launcher import LocalLauncher
from llava_av.launch.profile import (
    DEFAULT_CREDENTIALS_SECRET,
    DEFAULT_SERVICES_CONFIG_MAP,
    JobProfile,
    ProfileError,
    is_pinned,
    load_profile,
    read_profile,
)

__all__ = [
    "CA_FOLDER",
    "DEFAULT_CREDENTIALS_SECRET",
    "DEFAULT_SERVICES_CONFIG_MAP",
    "PIPELINE_LABEL",
    "TRUST_VARIABLES",
    "WORK_FOLDER",
    "JobProfile",
    "JobResult",
    "JobSpec",
    "KubernetesLauncher",
    "LaunchError",
    "Launcher",
    "LocalLauncher",
    "ProfileError",
    "delete_jobs",
    "is_pinned",
    "load_profile",
    "pipeline_runs_with_jobs",
    "read_profile",
]
