# docker build --target cpu -t srft:cpu .        docker run --rm -it -v "$PWD/runs:/work/runs" srft:cpu train quickstart
# docker build --target gpu -t srft:gpu .        docker run --rm -it --gpus all --ipc host -v … srft:gpu train …
FROM python:3.11-slim AS source
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srft
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src

FROM source AS cpu
RUN pip install -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu
RUN pip install -c constraints.txt ".[lora,tensorboard]"
WORKDIR /work
ENTRYPOINT ["srft"]

# vLLM says which torch it takes, so the tested versions do not bind here. Triton compiles with gcc.
FROM source AS gpu
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN pip install ".[lora,tensorboard,vllm]"
WORKDIR /work
ENTRYPOINT ["srft"]
