"""`helm test`: launch a PyTorchJob whose one process uses S3, with the launcher's account alone."""

import os
import uuid
from pathlib import Path

from llava_av.launch import JobProfile, JobSpec, get_launcher

STATEMENT = "from llava_av.storage import ObjectStore; ObjectStore.from_env().probe(); print('S3 works')"


def main() -> None:
    profile = JobProfile.model_validate_json(os.environ["PROFILE"])
    launcher = get_launcher("kubernetes", logs=Path("/tmp"), profile=profile)
    arguments = ("-n1", "-r1", STATEMENT)
    run = uuid.uuid4().hex[:16]
    result = launcher.run(
        JobSpec(name="helm-test", run=run, module="timeit", arguments=arguments), on_line=print
    )
    assert "S3 works" in result.last_lines, result


if __name__ == "__main__":
    main()
