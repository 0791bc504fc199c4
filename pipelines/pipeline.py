"""The pipeline from media to a registered, evaluated model: one definition, here and on a cluster."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from pipelines import components

__all__ = ["DEFAULT_IMAGE", "IMAGE_VARIABLE", "build_pipeline", "compile_pipeline"]

IMAGE_VARIABLE = "LLAVA_AV_PIPELINE_IMAGE"
DEFAULT_IMAGE = "llava-av-pipeline:python3.11"


def build_pipeline(image: str | None = None) -> Any:
    """The pipeline as a `kfp` component; calling it runs it when `kfp.local` is set up.

    Args:
        image: Image of the steps; LLAVA_AV_PIPELINE_IMAGE or `DEFAULT_IMAGE` if None. Runs on this machine
            ignore it.
    """
    base_image = image or os.environ.get(IMAGE_VARIABLE) or DEFAULT_IMAGE
    data, train, register, evaluate, promote, report = (
        _component(body, base_image)
        for body in (
            components.data,
            components.train,
            components.register,
            components.evaluate,
            components.promote,
            components.report,
        )
    )

    @dsl.pipeline(name="llava-av", description="From videos with sound to a registered, evaluated model")
    def llava_av_pipeline(
        recipe: str,
        overrides: str = "{}",
        dataset: str = "demo",
        dataset_name: str = "",
        experiment: str = "",
        launcher: str = "local",
        profile: str = "",
        gate: bool = True,
    ) -> str:
        # What a folder holds and where an alias points can change, so neither step is ever cached.
        opened = data(
            recipe=recipe,
            overrides=overrides,
            dataset=dataset,
            dataset_name=dataset_name,
            experiment=experiment,
        ).set_caching_options(False)
        run = opened.outputs["Output"]
        trained = train(run=run, launcher=launcher, profile=profile)
        registered = register(run=run).after(trained)
        evaluated = evaluate(run=run, launcher=launcher, profile=profile).after(registered)
        promoted = promote(run=run, gate=gate).after(evaluated).set_caching_options(False)
        report(run=run).after(promoted).set_caching_options(False)
        return run  # type: ignore[no-any-return]

    return llava_av_pipeline


def compile_pipeline(path: Path, image: str | None = None) -> None:
    """Write the pipeline as the YAML that a Kubeflow Pipelines backend takes."""
    compiler.Compiler().compile(build_pipeline(image), str(path))


def _component(body: Callable[..., Any], image: str) -> Any:
    # The image holds llava_av and kfp already; installing at run time would need a network.
    return dsl.component(base_image=image, install_kfp_package=False)(body)
