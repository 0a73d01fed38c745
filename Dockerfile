# One image for head and workers of a Ray cluster: docs/kubernetes.md.
#
#   docker build -t ray-dmd .                             # CUDA
#   docker build -t ray-dmd:cpu --build-arg TORCH=cpu .
#
# PyTorch's wheels bring CUDA and NCCL, the node brings the driver: the base needs neither.
FROM python:3.12-slim-trixie

ARG TORCH=cuda

# KubeRay before 1.6 probes its pods with wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home ray \
    && pip install --no-cache-dir uv==0.13.9

WORKDIR /app

# Slow and seldom changed, so before the code. The CPU build of PyTorch comes first and alone, from
# its own index: it meets the pin, so the second install leaves it there.
COPY pyproject.toml constraints.txt ./
RUN case "$TORCH" in \
      cuda) ;; \
      cpu) uv pip install --system --no-cache --no-deps \
             --index https://download.pytorch.org/whl/cpu "$(grep '^torch==' constraints.txt)" ;; \
      *) echo "TORCH is cuda or cpu, not $TORCH" >&2; exit 1 ;; \
    esac \
    && uv pip install --system --no-cache --compile-bytecode \
      -c constraints.txt -r pyproject.toml --extra mnist

COPY LICENSE ./
COPY configs configs
COPY jobs jobs
COPY pipeline pipeline
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1

# A number: runAsNonRoot believes no name.
USER 1000
