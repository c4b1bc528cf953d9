# Needs make and Python 3.10 or newer. `make` alone lists the targets.
#
#   make test PYTHON=3.12            another interpreter: a version, a name or a path; it gets a .venv-3.12 of its own
#   make test ARGS="-k retry -x"     more arguments for pytest
#   make test JOBS=8                 more tests at once, on a larger machine
#   make soak SOAK_REQUESTS=6000     a smaller soak, of a minute or two

PYTHON ?= python3
ARGS ?=
JOBS ?= 2
SOAK_REQUESTS ?= 30000
FUZZ_SECONDS ?= 60

ifeq ($(PYTHON),python3)
INTERPRETER := python3
VENV := .venv
else
# A version is that on PATH, or the newest such one of pyenv's.
INTERPRETER := $(if $(filter-out 3.%,$(PYTHON)),$(PYTHON),$(shell python$(PYTHON) -c '' 2>/dev/null && \
	echo python$(PYTHON) || { echo python$(PYTHON); \
	ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(PYTHON).*/bin/python 2>/dev/null | sort -V; } | tail -n 1))
VENV := .venv-$(shell $(INTERPRETER) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo unknown)
endif

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PACKAGES := . integrations/langchain integrations/llama-index integrations/ray
METADATA := $(addsuffix /pyproject.toml,$(PACKAGES)) $(wildcard integrations/*/hatch_build.py) namel3ss_ollama/_version.py
BENCH := .venv-bench
FLOORS := .venv-floors
RAY := .venv-ray
DOCS := .venv-docs
EDITABLE := --no-deps --no-build-isolation $(addprefix -e ,$(PACKAGES))
# The oldest Python that the pins are for comes next.
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
	--python-version

export UV_PYTHON_DOWNLOADS := never
export COVERAGE_FILE := $(CURDIR)/$(VENV)/.coverage
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH VIRTUAL_ENV

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-python coverage test-ray floors check docs pages record live soak fuzz bench bench-quick notebooks requirements build wheels clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | \
		while IFS="$$(printf '\t')" read -r target text; do printf '  make %-14s %s\n' "$$target" "$$text"; done

demo: $(READY) ## see it work, with the Ollama that answers or a small model in the process
	@$(BIN)/python examples/demo.py

# The model in the process wants all cores, so its tests come by themselves (there may be none among those in ARGS: exit
# code 5).
test: $(READY) ## run all tests that need no Ollama
	$(BIN)/python -m pytest -n $(JOBS) -m "not live and not embedded" $(ARGS)
	$(BIN)/python -m pytest -m "embedded and not live" $(ARGS) || test $$? -eq 5

test-fast: $(READY) ## run one case of each unit and wire test, in less than a minute
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not live and not embedded and not slow" --sample 1 $(ARGS) tests/unit tests/wire

test-python: $(READY) ## run three cases of each test of what differs between Pythons, as in PYTHON=3.13
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not live and not embedded" --sample 3 $(ARGS) tests/unit tests/wire \
		tests/langchain tests/llama_index

# `coverage run`, since pytest loads the core's pytest plugin before pytest-cov could begin to count.
coverage: $(READY) ## measure the coverage of the core, with two cases of each test
	@$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -q -n $(JOBS) -m "not live and not embedded" --sample 2 $(ARGS)
	$(BIN)/python -m coverage run -m pytest -q -m "embedded and not live" --sample 2 $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

test-ray: $(RAY)/.ready ## run the tests of the package for Ray, with a real local Ray
	$(RAY)/bin/python -m pytest tests/ray tests/docs/test_batch_page.py::test_ray_data --show-capture=no $(ARGS)

# Without the conformance suites, which follow the newest version, and without what is about processes and bounds.
floors: $(FLOORS)/.ready ## run the adapters' tests on the lowest versions that the packages ask for
	$(FLOORS)/bin/python -m pytest -n 2 -m "not live and not embedded" $(ARGS) tests/langchain tests/llama_index \
		$(addprefix --ignore-glob ,'*/test_standard_*' '*/test_workers_*' '*/test_calls_a_token_*' '*/test_closed_loops.py')

check: $(READY) ## lint, format, types, import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@for package in $(PACKAGES); do \
		echo "lint-imports: $$package" && $(BIN)/lint-imports --no-logo --config $$package/pyproject.toml || exit 1; done
	$(BIN)/python -m pytest -q tests/unit/test_repository.py

# No network: the theme brings its own files. Not --quiet, with which --strict sees no warnings. The variable switches off the
# notice of a later version of the theme than the one that is pinned.
docs: $(DOCS)/.ready ## build the site into site/; a broken link, reference or anchor fails
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

pages: $(READY) ## write the pages in docs/ again that come from the code
	NAMEL3SS_WRITE_DOCS=1 $(BIN)/python -m pytest -q -k "test_the_page" tests/cli tests/matrix tests/docs

record: $(READY) ## record the cassettes again, from the Ollama at OLLAMA_BASE_URL
	$(BIN)/python -m pytest tests/replay tests/langchain tests/llama_index --record -k "replay" --timeout 600 $(ARGS)

live: $(READY) ## run the tests that need the Ollama at OLLAMA_BASE_URL
	$(BIN)/python -m pytest -m live --timeout 600 $(ARGS)

soak: $(READY) ## many requests under faults, cancellations and a killed server; SOAK_REQUESTS over each transport
	$(BIN)/python tests/soak $(SOAK_REQUESTS)

fuzz: $(READY) ## run the fuzz targets by atheris for FUZZ_SECONDS in all (Python 3.11 to 3.13 on Linux)
	@test -d $(VENV)/fuzz || $(BIN)/uv pip install --quiet --python $(BIN)/python --target $(VENV)/fuzz \
		--require-hashes -r requirements/fuzz.txt || true
	PYTHONPATH=$(VENV)/fuzz $(BIN)/python fuzz $(FUZZ_SECONDS)

notebooks: $(READY) ## run the notebooks from top to bottom and store their outputs
	$(BIN)/python notebooks/execute.py

bench: $(BENCH)/.ready ## measure it beside its peers, and write docs/performance.md and hosts.md; under 5 minutes
	$(BENCH)/bin/python -m benchmarks $(ARGS)
	$(if $(ARGS),,$(BENCH)/bin/python -m benchmarks.hosts)

bench-quick: $(BENCH)/.ready ## the same with fewer rounds, into .benchmarks/; under a minute
	$(BENCH)/bin/python -m benchmarks --quick $(ARGS)
	$(if $(ARGS),,$(BENCH)/bin/python -m benchmarks.hosts --quick)

requirements: $(READY) ## compile the pins in requirements/ again (UPGRADE=--upgrade for newer ones)
	cd requirements && ../$(COMPILE) 3.10 $(UPGRADE) uv.in -o uv.txt
	cd requirements && ../$(COMPILE) 3.10 $(UPGRADE) dev.in -o dev.txt
	cd requirements && ../$(COMPILE) 3.10 --resolution lowest-direct $(UPGRADE) floors.in -o floors.txt
	cd requirements && ../$(COMPILE) 3.11 $(UPGRADE) fuzz.in -o fuzz.txt
	cd requirements && ../$(COMPILE) 3.10 $(UPGRADE) -c dev.txt bench.in -o bench.txt
	cd requirements && ../$(COMPILE) 3.10 $(UPGRADE) -c dev.txt ray.in -o ray.txt
	cd requirements && ../$(COMPILE) 3.10 $(UPGRADE) -c dev.txt docs.in -o docs.txt

build: $(READY) ## build the wheels and source distributions into dist/
	@rm -rf dist
	@for package in $(PACKAGES); do $(BIN)/python -m build --no-isolation --outdir dist $$package || exit 1; done
	$(BIN)/twine check --strict dist/*

wheels: build ## install the wheels into clean environments, with each extra (or those in ARGS), and run a first program
	$(BIN)/python tests/wheels $(ARGS)

clean: ## remove environments, caches and built files
	rm -rf .venv .venv-* dist site .benchmarks .codspeed .coverage .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip installs uv, uv installs the rest. Where uv cannot (no build for this machine, an index only pip knows of), pip does.
$(READY): requirements/dev.txt requirements/uv.txt $(METADATA)
	@$(INTERPRETER) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "Python 3.10 or newer is needed: '$(INTERPRETER)' is $$($(INTERPRETER) --version 2>&1 | head -n 1)" >&2; exit 1; }
	@echo "setting up $(VENV)"
	@$(INTERPRETER) -m venv $(VENV)
	@if $(BIN)/python -m pip install -qq --require-hashes -r requirements/uv.txt && \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt && \
		$(BIN)/uv pip install --quiet --python $(BIN)/python $(EDITABLE); then :; \
	else \
		echo "uv could not install the requirements; trying pip" && \
		$(BIN)/python -m pip install -qq --require-hashes -r requirements/dev.txt && \
		$(BIN)/python -m pip install -qq $(EDITABLE); \
	fi
	@touch $@

# Ray starts many processes, each of which would compile what it imports as long as nobody has.
$(RAY)/.ready: COMPILED := --compile-bytecode
# The peers that are measured have an environment of their own, with the same versions as .venv; so has Ray, which is large;
# so have the floors and the site.
$(BENCH)/.ready $(DOCS)/.ready $(FLOORS)/.ready $(RAY)/.ready: .venv-%/.ready: $(READY) requirements/%.txt $(METADATA)
	@echo "setting up .venv-$*"
	@$(INTERPRETER) -m venv .venv-$*
	@if $(BIN)/uv pip install --quiet $(COMPILED) --python .venv-$*/bin/python --require-hashes -r requirements/$*.txt; then :; else \
		echo "uv could not install the requirements; trying pip" && \
		.venv-$*/bin/python -m pip install -qq --require-hashes -r requirements/$*.txt; \
	fi
	@.venv-$*/bin/python -m pip install -qq $(EDITABLE)
	@touch $@
