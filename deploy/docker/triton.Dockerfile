# syntax=docker/dockerfile:1.10@sha256:865e5dd094beca432e8c0a1d5e1c465db5f998dca4e439981029b3b81fb39ed5
# NVIDIA Triton with the `faiss` backend built in. Build from the repository's root:
#   docker build -f deploy/docker/triton.Dockerfile -t attributary-triton .
# The two tags belong together: Triton 25.08 is built on CUDA 13.0. A TensorRT plan runs on the release that built it,
# so build engines with the TensorRT of this tag (docs/tensorrt.md). Where the digests come from: docs/threat-model.md.
ARG TRITON=25.08-py3@sha256:f836551575df7c9fb71144073845c6b3911de57db91a8c95e0687a4d2ac9f7a5
ARG CUDA=13.0.0-devel-ubuntu24.04@sha256:1e8ac7a54c184a1af8ef2167f28fa98281892a835c981ebcddb1fad04bdd452d

FROM nvcr.io/nvidia/tritonserver:${TRITON} AS triton

FROM nvidia/cuda:${CUDA} AS build
ARG FAISS=v1.15.1
ARG FAISS_GPU=ON
# AVX2; x86-64-v4 is AVX-512, for fleets where every processor has it.
ARG MARCH=x86-64-v3
# Real code for A100, A10, L4/L40, H100 and Blackwell; later GPUs compile the last one's PTX.
ARG CUDA_ARCHITECTURES="80-real;86-real;89-real;90-real;100-real;120"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates cmake g++ git libopenblas-dev libssl-dev ninja-build \
         nlohmann-json3-dev python3 \
    && rm -rf /var/lib/apt/lists/*
# The distribution's FAISS has neither AVX2 nor a GPU build.
ADD https://github.com/facebookresearch/faiss.git#${FAISS} /src/faiss
RUN cmake -S /src/faiss -B /build/faiss -G Ninja \
      -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=/opt/faiss -DBUILD_SHARED_LIBS=OFF -DBUILD_TESTING=OFF \
      -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DFAISS_ENABLE_PYTHON=OFF -DFAISS_OPT_LEVEL=generic \
      -DCMAKE_CXX_FLAGS="-march=${MARCH}" \
      -DFAISS_ENABLE_GPU=${FAISS_GPU} -DCMAKE_CUDA_ARCHITECTURES="${CUDA_ARCHITECTURES}" \
    && cmake --build /build/faiss --target install
COPY --from=triton /opt/tritonserver/include /opt/tritonserver/include
COPY CMakeLists.txt /src/attributary/
COPY proto /src/attributary/proto
COPY kernels /src/attributary/kernels
# The flags of FAISS, whose headers lay out structures by them.
RUN cmake -S /src/attributary -B /build/attributary -G Ninja \
      -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="/opt/faiss;/opt/tritonserver" -DCMAKE_CXX_FLAGS="-march=${MARCH}" \
      -DATTRIBUTARY_PYTHON=OFF -DATTRIBUTARY_TRITON=ON -DATTRIBUTARY_FAISS_GPU=${FAISS_GPU} \
    && cmake --build /build/attributary --target triton_faiss

FROM triton
# With a digest the tag is not looked at: the image itself has to be of the release that the tag names.
ARG TRITON
RUN case "${TRITON}" in "${NVIDIA_TRITON_SERVER_VERSION:?}"-*) ;; \
      *) echo "image of Triton ${NVIDIA_TRITON_SERVER_VERSION}, asked for ${TRITON}" >&2; exit 1;; esac
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libopenblas0-pthread libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /build/attributary/backends/faiss/libtriton_faiss.so /opt/tritonserver/backends/faiss/libtriton_faiss.so
# Threads that spin for work take the core of the next request.
ENV OMP_WAIT_POLICY=passive
# The base image's own unprivileged user, triton-server.
USER 1000:1000
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 CMD ["curl", "-fsS", "http://127.0.0.1:8000/v2/health/ready"]
# Models come from `attributary triton materialize`. Explicit control: a half-written model is never picked up.
CMD ["tritonserver", "--model-repository=/repository", "--model-control-mode=explicit", "--load-model=*", \
     "--disable-auto-complete-config", "--exit-timeout-secs=30"]
