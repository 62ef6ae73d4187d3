#!/usr/bin/env bash
# Builds the distribution's own FAISS source with AVX2, which its package lacks, and installs it under a prefix:
#   kernels/triton_faiss/build_faiss.sh build/faiss
#   make triton-backend FAISS_DIR=$PWD/build/faiss/share/faiss
# Needs apt-get (not root), cmake, a C++ compiler and OpenBLAS's headers; three to eight minutes of one core.
set -euo pipefail
prefix=$(realpath -m "${1:?usage: build_faiss.sh PREFIX}")
version=1.7.3
sha256=${FAISS_SHA256:-3e4fac26d8c9e9008ecea4ae5fc414c658998fce4ba75835058b1a71d3516002}
release=${FAISS_RELEASE:-bookworm}
# The archive that this machine installs from.
mirror=${FAISS_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)}

mkdir -p "$prefix/source/lists/partial" "$prefix/source/cache/archives/partial"
cd "$prefix/source"
archive=faiss_$version.orig.tar.gz
if [ ! -f "$archive" ]; then
  keys=/usr/share/keyrings/debian-archive-keyring.gpg
  echo "deb-src [signed-by=$keys] $mirror $release main" > sources.list
  # A list and folders of its own: the machine's apt is left as it is.
  options=(-o "Dir::Etc::SourceList=$PWD/sources.list" -o Dir::Etc::SourceParts=/dev/null
           -o "Dir::State::Lists=$PWD/lists" -o "Dir::Cache=$PWD/cache")
  apt-get "${options[@]}" -qq update
  apt-get "${options[@]}" -qq source --download-only "faiss=$version-2"
fi
echo "$sha256  $archive" | sha256sum --check --quiet
tar -xf "$archive"
cmake -S "faiss-$version" -B build -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_BUILD_TYPE=Release \
  -DFAISS_ENABLE_GPU=OFF -DFAISS_ENABLE_PYTHON=OFF -DBUILD_TESTING=OFF -DBUILD_SHARED_LIBS=OFF \
  -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DCMAKE_CXX_FLAGS="-mavx2 -mfma -mf16c -mpopcnt"
cmake --build build --target faiss -j "${FAISS_JOBS:-2}"
cmake --install build
