# lposekit: every target sets up what it needs. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.lposekit-setup
# The first Python that numpy 2.4 (>= 3.11) and img2dataset 1.47 (< 3.13) both run on.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo "$$p" && break; done)
# Model weights lie in the first of these that exists; without any, they are downloaded from their publisher.
export LPOSEKIT_WEIGHTS ?= $(firstword $(wildcard weights ../shared/weights))
ifeq ($(LPOSEKIT_WEIGHTS),)
unexport LPOSEKIT_WEIGHTS
endif

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(STAMP)  ## make the virtual environment and install the pinned wheels (once)

$(STAMP): lposekit/pins.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "lposekit needs Python 3.11 or 3.12 (numpy 2.4 needs 3.11, img2dataset 1.47 fails on 3.13)." \
		"Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' lposekit/pins.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps -r lposekit/pins.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: laion-pose
laion-pose: setup  ## build LAION-Pose; INPUT=list OUTPUT=folder ARGS=..., without INPUT a sample of real photos
	$(BIN)/lposekit build-laion-pose $(if $(INPUT),--input $(INPUT)) $(if $(OUTPUT),--output "$(OUTPUT)") $(ARGS)

# Tests run side by side, and threads that wait for others sleep: those that spin would take the other test's core.
JOBS ?= 2
PYTEST := OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=10

.PHONY: test
test: setup  ## every promise once (10 to 17 minutes on 2 cores); JOBS=2 tests at a time
	$(PYTEST) -m "not slow and not more" $(ARGS)

.PHONY: test-more
test-more: setup  ## more kills, damage, sizes and seeds (at most 25 minutes on 2 cores)
	$(PYTEST) -m "more and not slow" $(ARGS)

.PHONY: test-kill
test-kill: setup  ## kill drivers, workers and models at random moments; compare the finished folders (long)
	$(BIN)/python -m pytest -m slow tests/faults --timeout 3600 $(ARGS)

.PHONY: test-slow
test-slow: setup  ## every slow test: fuzzing, kills, soak runs (long)
	$(BIN)/python -m pytest -m slow --timeout 3600 $(ARGS)

.PHONY: test-attack
test-attack: setup  ## the tests of all failures and attacks, and the table of what proves which
	$(BIN)/python -m pytest -p tests.support.case_table -m "case and not slow" --timeout 900 $(ARGS)

MINUTES ?= 5
.PHONY: fuzz
fuzz: setup  ## changed files for every reader of strangers' bytes; MINUTES=5; what is found is kept in tests/fuzz/found
	$(BIN)/python -m tests.fuzz.run --minutes $(MINUTES) $(ARGS)

.PHONY: test-package
test-package: setup  ## build the wheel, install it into empty environments, and use it there (asks the package index)
	$(BIN)/python -m pytest -m slow tests/package --durations=5 $(ARGS)

.PHONY: lint
lint: setup  ## ruff and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.PHONY: type
type: setup  ## pyright
	$(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: ci-312
ci-312:  ## what CI runs, with Python 3.12 in an environment of its own
	PYTHON=python3.12 VENV=.venv-3.12 .ci/run

.PHONY: bench
bench: setup  ## all benchmarks; writes docs/benchmarks.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/bench-peers \
		-r tests/benchmarks/peers.txt
	$(BIN)/python -m tests.benchmarks.run $(ARGS)

.PHONY: clean
clean:  ## remove what the quickstart built
	rm -rf quickstart
