# Freshet needs Python 3.11+ and make; everything else is installed into .venv by the first target.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-stack test-long lint format audit peers alternatives

BIN := .venv/bin
INSTALLED := .venv/installed
PACKAGES := kernels service trainer serving
PINS := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
PYTHON := $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { command -v $$python; break; }; done)

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | while IFS=$$'\t' read -r name what; \
	do printf '  make %-10s %s\n' "$$name" "$$what"; done

demo: $(INSTALLED)  ## trainer and server learn from a simulated feed, live (Ctrl-C ends it)
	@$(BIN)/freshet demo

test: lint  ## lint, types, tests (under 10 minutes on two cores); COVERAGE=1 as CI does, a fifth slower
	@rm -f .coverage .coverage.*
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal -m "not long and not stack" \
		$(if $(COVERAGE),--cov --cov-report=term --cov-fail-under=90)

test-stack: $(INSTALLED)  ## the tests against real Kafka, Redis and Prometheus (under 10 minutes)
	$(BIN)/pytest -m "stack and not long" tests/stack

test-long: $(INSTALLED)  ## the tests that take minutes, outside CI
	$(BIN)/pytest -m long

lint: $(INSTALLED)  ## ruff, formatting, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(PACKAGES:%=-p %)

audit: $(INSTALLED)  ## dependencies: pins, licences, known vulnerabilities (where OSV can be reached)
	@$(BIN)/python .ci/audit.py

format: $(INSTALLED)  ## format and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

PEERS := .peers
peers: $(PEERS)/tfra/installed $(PEERS)/torchrec/installed  ## other tables, for `benchmarks.store --peers .peers`

$(PEERS)/tfra/installed: benchmarks/peers/requirements-tfra.txt
	@command -v python3.11 >/dev/null || { echo "error: TensorFlow 2.16 needs python3.11" >&2; exit 1; }
	@python3.11 -m venv $(@D)
	@$(@D)/bin/pip install --quiet --no-deps -r $< && touch $@

$(PEERS)/torchrec/installed: benchmarks/peers/requirements-torchrec.txt
	@command -v python3.11 >/dev/null || { echo "error: these pins need python3.11" >&2; exit 1; }
	@python3.11 -m venv $(@D)
	@$(@D)/bin/pip install --quiet --only-binary torch 'torch==$(TORCH)+cpu' 2>/dev/null \
		|| $(@D)/bin/pip install --quiet 'torch==$(TORCH)'
	@$(@D)/bin/pip install --quiet --no-deps -r $< && touch $@

alternatives: $(PEERS)/serving/installed  ## other ways to serve rankings, for `benchmarks.alternatives` (300 MB)

$(PEERS)/serving/installed: benchmarks/peers/requirements-serving.txt $(INSTALLED)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(@D) -r $<
	@touch $@

# torch's CPU build is a tenth of the CUDA build: taken where pip finds it, and not missed elsewhere.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer with the venv module was found;" \
		"install one (Debian, Ubuntu: apt install python3 python3-venv) and run make again" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "creating .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "installing pinned dependencies into .venv (a few minutes, once)"
	@$(BIN)/python -c 'import torch' 2>/dev/null \
		|| $(PINS) $(BIN)/pip install --quiet --only-binary torch 'torch==$(TORCH)+cpu' 2>/dev/null \
		|| true
	@$(PINS) $(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
