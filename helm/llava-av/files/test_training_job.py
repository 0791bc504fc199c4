"""`helm test` of a PyTorchJob: launch one that uses S3, with the launcher's account only."""

import os
import uuid
from pathlib import Path

from llava_av.launch import JobProfile, JobSpec, KubernetesLauncher

STATEMENT = "from llava_av.storage import ObjectStore; ObjectStore.from_env().probe(); print('S3 works')"


def main() -> None:
    profile = JobProfile.model_validate_json(os.environ["PROFILE"])
    arguments = ("-n1", "-r1", STATEMENT)
    run = uuid.uuid4().hex[:16]
    lines: list[str] = []

    def show(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    spec = JobSpec(name="helm-test", run=run, module="timeit", arguments=arguments)
    KubernetesLauncher(Path("/tmp"), profile).run(spec, on_line=show)
    assert "S3 works" in lines, lines


if __name__ == "__main__":
    main()
