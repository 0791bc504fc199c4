# The project's images. docs/images.md describes their content. To build them: make images
#   train      training and evaluation: PyTorch with CUDA, DeepSpeed
#   pipeline   pipeline steps and cluster clients; no PyTorch
#   mlflow     MLflow server with PostgreSQL and S3 clients
# Packages are in lower layers than the code, so a code change rebuilds, pushes and pulls only small layers.

# images/pin writes the digest of the base image. To use another: --build-arg PYTHON_IMAGE=NAME:TAG@sha256:DIGEST
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b


# uv and the install script. Other stages mount this one, so that no image contains it.
FROM ${PYTHON_IMAGE} AS tools
COPY images/install requirements/bootstrap.txt requirements/build.txt /opt/tools/
RUN --mount=type=secret,id=index --mount=type=secret,id=ca sh /opt/tools/install uv
# The stage must not end with RUN: buildah 1.28 omits a final RUN when it mounts a cached stage.
WORKDIR /opt/tools


# Common base: an unprivileged user, and all caches below /tmp, where pods mount an empty volume.
FROM ${PYTHON_IMAGE} AS base
RUN groupadd --gid 1000 llava-av \
    && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp llava-av \
    && install -d -o 1000 -g 1000 /work
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=llava-av \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /work


# The code and its bytecode in /app; the .pth file, metadata and command that make it importable in /opt/project.
FROM base AS code
COPY LICENSE README.md pyproject.toml /app/
COPY llava_av /app/llava_av
COPY pipelines /app/pipelines
COPY recipes /app/recipes
COPY experiments /app/experiments
COPY gates /app/gates
COPY k8s/profiles /app/k8s/profiles
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=secret,id=index --mount=type=secret,id=ca sh /opt/tools/install project


FROM base AS train
COPY requirements/train.txt /opt/requirements/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=cache,target=/var/cache/uv,sharing=locked \
    --mount=type=secret,id=index --mount=type=secret,id=ca sh /opt/tools/install packages train
ENV HF_HUB_DISABLE_TELEMETRY=1 \
    HF_HOME=/tmp/cache/huggingface \
    TORCH_HOME=/tmp/cache/torch \
    TORCH_EXTENSIONS_DIR=/tmp/cache/torch-extensions \
    TORCHINDUCTOR_CACHE_DIR=/tmp/cache/inductor \
    TRITON_HOME=/tmp/cache \
    TRITON_CACHE_DIR=/tmp/cache/triton \
    CUDA_CACHE_PATH=/tmp/cache/cuda \
    NUMBA_CACHE_DIR=/tmp/cache/numba \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=code /opt/project/ /opt/venv/
COPY --from=code /app /app
ARG PYTHON_IMAGE
ARG COMMIT=""
# Rejects invalid commits. buildah caches ENV and LABEL by their text only; this RUN makes it notice a new commit.
RUN echo "${COMMIT}" | grep -Eq '^([0-9a-f]{40}(-modified)?)?$'
ENV LLAVA_AV_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="llava-av-train" \
      org.opencontainers.image.description="Trains and evaluates audio-visual LLaVA models" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.revision="${COMMIT}"
USER 1000:1000
ENTRYPOINT ["llava-av"]
CMD ["--help"]


FROM base AS pipeline
COPY requirements/pipeline.txt /opt/requirements/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=cache,target=/var/cache/uv,sharing=locked \
    --mount=type=secret,id=index --mount=type=secret,id=ca sh /opt/tools/install packages pipeline
# Logs and temporary copies of a step, deleted with the pod.
ENV LLAVA_AV_OUTPUT_DIR=/tmp/llava-av
COPY --from=code /opt/project/ /opt/venv/
COPY --from=code /app /app
ARG PYTHON_IMAGE
ARG COMMIT=""
RUN echo "${COMMIT}" | grep -Eq '^([0-9a-f]{40}(-modified)?)?$'
ENV LLAVA_AV_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="llava-av-pipeline" \
      org.opencontainers.image.description="Steps of the llava-av pipeline; submits training jobs, does not train" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.revision="${COMMIT}"
USER 1000:1000
ENTRYPOINT ["llava-av"]
CMD ["--help"]


FROM base AS mlflow
COPY requirements/mlflow.txt /opt/requirements/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=cache,target=/var/cache/uv,sharing=locked \
    --mount=type=secret,id=index --mount=type=secret,id=ca sh /opt/tools/install packages mlflow
# Job execution, which evaluates traces of language models, is not used. With several workers, uvicorn kills each that
# does not answer for 5 s, and on a busy node no worker survives its start.
ENV MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    MLFLOW_WORKERS=1
ARG PYTHON_IMAGE
ARG COMMIT=""
RUN echo "${COMMIT}" | grep -Eq '^([0-9a-f]{40}(-modified)?)?$'
LABEL org.opencontainers.image.title="llava-av-mlflow" \
      org.opencontainers.image.description="MLflow server with PostgreSQL, S3 artifacts and basic authentication" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.revision="${COMMIT}"
USER 1000:1000
EXPOSE 5000
ENTRYPOINT ["mlflow"]
CMD ["server", "--host", "0.0.0.0", "--port", "5000"]
