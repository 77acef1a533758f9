# The ways to run, check and build DTR. `make` alone lists them.
#
# ARGS is passed on:   make serve ARGS='--listen 0.0.0.0:5000'   make check ARGS='-k digest'

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

# The first Python that is new enough; on some machines `python3` is not.
PYTHON ?= $(shell for each in python3 python3.11 python3.12 python3.13; do \
	"$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	echo "$$each" && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python3 -m pip --quiet --disable-pip-version-check --no-input
ARGS ?=

# What starts servers or real clients is slow: `make check` leaves it out.
FAST := not clients and not conformance and not crash and not server and not postgresql and not s3 and not outage and not etcd and not cluster and not measuring and not packages
# What kills and freezes under load, or measures, must have the machine to itself; the rest of what
# is slow waits more than it computes, and runs side by side.
ALONE := crash or outage or cluster or measuring

##@ Run
.PHONY: serve
serve: $(VENV)/run ## start the registry on 127.0.0.1:5000, its data in ./data (ARGS= for more)
	@exec $(BIN)/dtr serve $(ARGS)

##@ Work
.PHONY: check lint fix
check: lint ## format, lint, import contracts, types, fast tests: before each commit
	$(BIN)/python3 -m pytest -q -n auto -m '$(FAST)' $(ARGS)

lint: $(VENV)/dev ## everything of check but the tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports
	$(BIN)/mypy

fix: $(VENV)/dev ## format, and mend what the linter can mend by itself
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: test soak outages demo-cluster bench
test: $(VENV)/dev ## install what the tests need, then run all that this machine can run
	tools/install-debian-packages test
ifdef ARGS
	tools/install-go-tools
	$(MAKE) --no-print-directory lint ARGS=
	$(BIN)/python3 -m pytest $(ARGS)
else
	@tools/run-tests $(BIN) '$(FAST)' '$(ALONE)'
endif

SECONDS_OF_RACES ?= 600
soak: $(VENV)/dev ## what takes long, by night: kills and outages under load, random races
	TEST_CRASH_KILLS=200 $(BIN)/python3 -m pytest tests/crash/test_kill.py -s --timeout=7200 $(ARGS)
	TEST_OUTAGE_ROUNDS=5 TEST_OUTAGE_KILLS=20 $(BIN)/python3 -m pytest tests/outages -s --timeout=3600 $(ARGS)
	TEST_BALANCED_PUSHES=200 $(BIN)/python3 -m pytest tests/clients/test_balanced.py --timeout=3600 $(ARGS)
	TEST_JOBS_EXAMPLES=300 $(BIN)/python3 -m pytest tests/jobs/test_machine.py --timeout=3600 $(ARGS)
	$(BIN)/python3 -m tests.races.long_run --seconds $(SECONDS_OF_RACES) --seed $$RANDOM

outages: $(VENV)/dev ## machines of a cluster die in every way, for an hour; needs root
	tools/install-debian-packages test
	TEST_OUTAGES=all $(BIN)/python3 -m pytest tests/cluster -s --timeout=3600 $(ARGS)

demo-cluster: $(VENV)/dev ## three machines on this one, to watch one die; needs root
	tools/install-debian-packages test
	@exec $(BIN)/python3 -m demo $(ARGS)

bench: $(VENV)/dev ## measure against other registries; tables go to benchmarks/results
	tools/install-debian-packages bench
	$(BIN)/python3 -m benchmarks $(ARGS)

##@ Release
.PHONY: lock image
# With extras: Debian's pip takes an extra that is not pinned for a requirement that is not pinned.
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-strip-extras \
	--python-version 3.11 --custom-compile-command 'make lock'
# What pyproject.toml builds with, and what that asks for when it installs in place; and what builds
# those packages of requirements.lock that have no wheels.
BUILD_REQUIRES := hatchling editables setuptools wheel
lock: $(VENV)/home ## pin all dependencies anew, with hashes (ARGS=--upgrade to move them)
	$(PIP) install 'uv>=0.9'
	$(COMPILE) $(ARGS) pyproject.toml --output-file requirements.lock
	$(COMPILE) $(ARGS) --group dev --constraint requirements.lock --output-file requirements-dev.lock
	printf '%s\n' $(BUILD_REQUIRES) | $(COMPILE) $(ARGS) - --no-annotate --output-file requirements-build.lock

ENGINE ?= $(firstword $(foreach each,docker podman buildah,$(if $(shell command -v $(each)),$(each))))
BASE ?= python:3.11-slim-bookworm
# The other format of images has no health check.
HEALTHY := $(if $(filter docker,$(notdir $(ENGINE))),,--format docker)
image: ## build the container image dtr:latest (ENGINE=podman, BASE=another image with Python 3.11)
	$(ENGINE) build $(HEALTHY) --build-arg BASE=$(BASE) --tag dtr:latest $(ARGS) .

##@ Rest
.PHONY: clean help
clean: ## remove the virtual environment, caches and build results; ./data and .tools stay
	rm -rf $(VENV) build dist .coverage .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis
	find src tests benchmarks demo -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@awk -F ':.*## ' '/^##@ /{print "\n" substr($$0, 5)} \
		/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# --- the virtual environment -------------------------------------------------------------------
# home   what it was made for: a copied or moved checkout, or a Python that is gone, makes it anew
# run    the locked packages and DTR itself, installed in place
# dev    what the tests and checks need besides
IS_SOUND := $(and $(realpath $(BIN)/python3),$(findstring [$(CURDIR)],[$(file <$(VENV)/home)]))

$(VENV)/home: $(if $(IS_SOUND),,ALWAYS)
	@[[ -n "$(PYTHON)" ]] || { echo 'Python 3.11 or newer is needed: apt-get install python3 python3-venv' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'Python cannot make virtual environments here: apt-get install python3-venv' >&2; exit 1; }
	@if [[ -e $@ ]] || ! $(BIN)/python3 -c '' 2>/dev/null; then \
		echo 'Making the virtual environment $(VENV) ...'; $(PYTHON) -m venv --clear $(VENV); fi
	@printf '%s' '$(CURDIR)' >$@

$(VENV)/run: $(VENV)/home requirements.lock requirements-build.lock pyproject.toml
	@echo 'Installing DTR and the packages of requirements.lock ...'
	@$(PIP) install --require-hashes -r requirements-build.lock
	@$(PIP) install --require-hashes --no-build-isolation -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.lock
	@echo 'Installing the packages of requirements-dev.lock ...'
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

.PHONY: ALWAYS
ALWAYS:
