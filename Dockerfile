# docker build -t safety-proxy:cpu .
# docker build -t safety-proxy:cuda --build-arg TORCH=cuda .

ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH=cpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ARG UV_VERSION=0.13.9
ENV PYTHONDONTWRITEBYTECODE=1 \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PROJECT_ENVIRONMENT=/opt/safety-proxy \
    UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/opt/safety-proxy
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# pdqhash comes as C++ for Linux. What it needs to run is in the slim image.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "uv==${UV_VERSION}"
WORKDIR /build

# All dependencies as locked. The lock names the torch of PyPI, which on Linux brings CUDA along
# (5 GB); a CPU image leaves that family out and takes the same versions from PyTorch's CPU index.
COPY pyproject.toml uv.lock ./
RUN case "${TORCH}" in \
      cuda) \
        uv sync --frozen --no-dev --no-install-project ;; \
      cpu) \
        uv export --frozen --no-dev --no-emit-project --no-hashes --no-annotate > locked.txt; \
        mapfile -t family < <(grep -oE '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==' locked.txt | tr -d =); \
        mapfile -t torch < <(grep -oE '^(torch|torchvision)==[^ ;]+' locked.txt); \
        uv sync --frozen --no-dev --no-install-project "${family[@]/#/--no-install-package=}"; \
        uv pip install --no-deps --index-url "${TORCH_CPU_INDEX}" "${torch[@]}" ;; \
      *) \
        echo "TORCH=${TORCH}: cpu or cuda" >&2; exit 1 ;; \
    esac

COPY README.md LICENSE ./
COPY safety_proxy ./safety_proxy
RUN uv pip install --no-deps .

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/safety-proxy /opt/safety-proxy
RUN useradd --system --uid 10001 --no-create-home --home-dir /tmp safety-proxy \
    && install -d -o safety-proxy /models /data
# Inside, Lemmy and pict-rs have to reach their listeners from other containers; nobody has to reach
# the admin listener.
ENV PATH=/opt/safety-proxy/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/models/huggingface \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SAFETY_PROXY_SERVER__HOST=0.0.0.0 \
    SAFETY_PROXY_VALIDATOR__HOST=0.0.0.0 \
    SAFETY_PROXY_MODEL__CACHE_DIR=/models \
    SAFETY_PROXY_STORE__FOLDER=/data
USER 10001
VOLUME /models /data
EXPOSE 8580 8583
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('SAFETY_PROXY_SERVER__ADMIN_PORT', '8581') + '/healthz', timeout=4)"]
ENTRYPOINT ["safety-proxy"]
CMD ["serve"]
