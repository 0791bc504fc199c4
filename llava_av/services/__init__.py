"""S3 and MLflow servers that commands use: those that the environment names, or embedded ones.

`named_or_embedded.py` decides which, and sets the variables by which everything finds them. `servers.py` runs
embedded servers on a state folder (`state.py`), each as a process with a log (`server.py`): SeaweedFS
(`seaweedfs.py`, with mutual TLS between its parts by `certificates.py`) and MLflow (`mlflow_start.py`, whose
process is `mlflow_server.py` with authentication by `access.py`). `supervised.py` keeps servers up between
commands in the detached process of `supervisor.py`. `addresses.py` and `ports.py` hold URLs and ports;
`mlflow_health.py` checks that an MLflow answers.
"""

from llava_av.services.named_or_embedded import service_environment
from llava_av.services.server_errors import ServiceError
from llava_av.services.supervised import ServicesStatus, services_down, services_status, services_up

__all__ = [
    "ServiceError",
    "ServicesStatus",
    "service_environment",
    "services_down",
    "services_status",
    "services_up",
]
