"""The S3 and MLflow servers that the platform needs: those the environment names, or embedded ones."""

from llava_av.services.environment import service_environment
from llava_av.services.errors import ServiceError
from llava_av.services.supervised import ServicesStatus, services_down, services_status, services_up

__all__ = [
    "ServiceError",
    "ServicesStatus",
    "service_environment",
    "services_down",
    "services_status",
    "services_up",
]
