# V-PEFT Bench on a CPU: docker build -t vpeft . && docker run --rm -v "$PWD:/work" vpeft train CONFIG
FROM python:3.12-slim-bookworm

# OpenCV's builds with windows need these two; every install of the project is pinned by requirements/constraints.txt.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

COPY . /src
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        -c /src/requirements/constraints.txt "/src[dense,video,tune,export,serve]" \
    && rm -rf /src

RUN useradd --create-home --uid 1000 vpeft
USER 1000
WORKDIR /work
ENTRYPOINT ["vpeft"]
CMD ["--help"]
