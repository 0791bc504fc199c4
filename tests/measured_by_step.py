"""`python -m tests.measured_by_step`: `llava_av.training` with a dataset that counts as large."""

import runpy

from llava_av.training import stage_samples

if __name__ == "__main__":
    stage_samples.MEASURED_AT_ONCE = 0
    runpy.run_module("llava_av.training", run_name="__main__", alter_sys=True)
