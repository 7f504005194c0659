# The image of both processes: `bridge` and `run` are the commands. No shell, no package manager is needed at run time;
# nothing is written outside memory. Versions are those of uv.lock, and /app/sbom.cdx.json lists them.
#   docker build --tag userupdates .
#   docker build --tag userupdates-dev --target dev .      with the sources, the sample downstream and reloading

# Python 3.11 to 3.14, with glibc.
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS build
RUN python -c "import sys, sysconfig; 'musl' in (sysconfig.get_config_var('SOABI') or '') and sys.exit('confluent-kafka has no wheel for musl (Alpine): build with --build-arg PYTHON=python:3.12-slim')"
ARG UV_VERSION=0.13.9
RUN python -m venv /uv && /uv/bin/pip install --quiet --disable-pip-version-check uv==${UV_VERSION}
WORKDIR /src
ENV UV_PROJECT_ENVIRONMENT=/app UV_LINK_MODE=copy UV_PYTHON=/usr/local/bin/python3 UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1
COPY pyproject.toml uv.lock ./
RUN /uv/bin/uv sync --frozen --no-default-groups --extra operator --no-install-project --compile-bytecode
COPY README.md LICENSE ./
COPY controller controller
RUN /uv/bin/uv sync --frozen --no-default-groups --extra operator --no-editable --compile-bytecode \
    && /uv/bin/uv export --quiet --frozen --no-default-groups --extra operator --format cyclonedx1.5 --preview-features sbom-export \
        --output-file /app/sbom.cdx.json

FROM build AS build-dev
RUN /uv/bin/uv sync --frozen --no-default-groups --extra operator --group reload --no-install-project --compile-bytecode

FROM ${PYTHON} AS base
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
EXPOSE 8080

FROM base AS dev
COPY --from=build-dev /app /app
COPY --chown=65532:65532 controller /src/controller
COPY --chown=65532:65532 devenv /src/devenv
WORKDIR /src
ENTRYPOINT ["python", "-m", "controller"]

FROM base
LABEL org.opencontainers.image.title=userupdates org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /app /app
ENTRYPOINT ["python", "-m", "controller"]
