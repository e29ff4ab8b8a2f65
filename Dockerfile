# midframe on a CPU, with the web page: docker build -t midframe . ; see compose.yaml
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /src

FROM python:3.12-slim
# PyPI's torch for Linux is the CUDA build, several gigabytes larger
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/midframe-*.whl)[web]" && useradd --create-home midframe && mkdir /data && chown midframe /data
USER midframe
VOLUME /data
WORKDIR /data
ENTRYPOINT ["midframe"]
CMD ["--help"]
