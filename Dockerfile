# The project's images; docs/images.md says what is in each and how to build them: make images
#   train      PyTorch with CUDA and DeepSpeed: training and evaluation
#   pipeline   the pipeline's steps and what talks to a cluster; no PyTorch
#   mlflow     the MLflow server with PostgreSQL and S3
# Packages lie below the code, so that a change of code alone makes, pushes and pulls little.

# images/pin writes the base's digest here; from elsewhere: --build-arg PYTHON_IMAGE=NAME:TAG@sha256:DIGEST
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b


# uv and the script that fills /opt/venv; mounted where they are needed, in no image.
FROM ${PYTHON_IMAGE} AS tools
COPY images/install requirements/bootstrap.txt requirements/build.txt /opt/tools/
RUN --mount=type=secret,id=index --mount=type=secret,id=ca sh /opt/tools/install uv
# Not a RUN last: of a stage that it has cached, buildah 1.28 mounts all but a RUN at its end.
WORKDIR /opt/tools


# What all images have: a user without rights, and every cache below /tmp, where a pod mounts an empty folder.
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


# The code in /app, as bytecode too, and in /opt/project what makes it importable: a .pth file, its
# metadata and the command.
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
# Refuses what is no commit. buildah caches ENV and LABEL by their text alone; after a RUN it sees another commit.
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
# Where a step leaves its logs and copies; nothing of it outlives the pod.
ENV LLAVA_AV_OUTPUT_DIR=/tmp/llava-av
COPY --from=code /opt/project/ /opt/venv/
COPY --from=code /app /app
ARG PYTHON_IMAGE
ARG COMMIT=""
RUN echo "${COMMIT}" | grep -Eq '^([0-9a-f]{40}(-modified)?)?$'
ENV LLAVA_AV_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="llava-av-pipeline" \
      org.opencontainers.image.description="The steps of the llava-av pipeline; submits training, does not train" \
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
# Without the processes that judge traces of language models, which nothing here asks for. One worker: of several
# uvicorn ends each that does not answer for 5 s, and on a busy node none of them lives to the end of its start.
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
