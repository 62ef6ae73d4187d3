# syntax=docker/dockerfile:1.10@sha256:865e5dd094beca432e8c0a1d5e1c465db5f998dca4e439981029b3b81fb39ed5
# The gateway and every `attributary` verb. Build from the repository's root:
#   docker build -f deploy/docker/gateway.Dockerfile -t attributary-gateway .
# With the digest of the tag, for all platforms: docs/threat-model.md says how to renew it.
ARG PYTHON=3.12.11-slim-bookworm@sha256:519591d6871b7bc437060736b9f7456b8731f1499a57e22e6c285135ae657bf7

FROM python:${PYTHON} AS build
# The compiler is the distribution's; a version of it pinned here would vanish with the next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements-build.txt constraints.txt ./
RUN python -m venv /opt/attributary \
    && /opt/attributary/bin/pip install --no-cache-dir -c constraints.txt -r requirements-build.txt
ENV PATH=/opt/attributary/bin:$PATH
COPY CMakeLists.txt pyproject.toml README.md LICENSE NOTICE ./
COPY proto proto
COPY kernels kernels
COPY model_repository model_repository
COPY python/attributary python/attributary
COPY deploy/requirements.lock deploy/
# A second environment, so that build tools do not travel. Every file in it is the one that the lock knows by its hash.
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation -w /wheels . \
    && python -m venv --clear /opt/serving \
    && /opt/serving/bin/pip install --no-cache-dir --require-hashes --no-deps -r deploy/requirements.lock \
    && /opt/serving/bin/pip install --no-cache-dir --no-deps --no-index /wheels/attributary-*.whl

FROM python:${PYTHON}
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin attributary
COPY --from=build /opt/serving /opt/serving
COPY deploy/docker/healthcheck.py /opt/serving/healthcheck.py
ENV PATH=/opt/serving/bin:$PATH \
    ATTRIBUTARY_HOST=0.0.0.0 \
    ATTRIBUTARY_BUNDLE=/bundle \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 50051 8080 9464
STOPSIGNAL SIGTERM
# A bundle is hashed and its golden queries are asked before the port opens.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python", "/opt/serving/healthcheck.py"]
ENTRYPOINT ["attributary"]
CMD ["serve"]
