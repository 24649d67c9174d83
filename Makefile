# Everything a person does with this repository. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV := .venv
LOCK := requirements.lock
SBOM := build/sbom.cdx.json
BIN := $(VENV)/bin
# The first Python on the path that is new enough; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
LOCKED := --universal --python-version 3.11 --generate-hashes --no-header --no-emit-package tollgate --quiet

.PHONY: help install demo test lint types bench up down docs lock sbom audit clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-9s %s\n", $$1, $$2 }' Makefile

install: $(VENV)/.installed ## the locked dependencies and the tollgate command, into .venv

# The stamp is written last, so that an interrupted installation is done again.
$(VENV)/.installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer on the path: install one, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make a virtual environment: install its venv package (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@rm -f "$@"
	@echo "installing the locked dependencies into $(VENV) (about a minute)"
	@"$(PYTHON)" -m venv "$(VENV)"
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	@PYTHONWARNINGS="ignore:Editable installation" "$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch "$@"

demo: install ## 100,000 events through the whole way, and the proof; TRACE=file.csv runs a trace file
	@"$(BIN)/tollgate" demo $(if $(TRACE),--trace "$(TRACE)")

test: install ## every test, on a real Kafka, PostgreSQL and ClickHouse engine; TESTERS=2 shares the files
	@"$(BIN)/pytest" $(if $(TESTERS),-n "$(TESTERS)" --dist loadfile --no-loadscope-reorder)

lint: install ## format, rules, and who may import whom
	@"$(BIN)/ruff" format --check .
	@"$(BIN)/ruff" check .
	@"$(BIN)/lint-imports"

types: install ## mypy, strict
	@"$(BIN)/mypy"

bench: install ## rate and latency of the whole way on this machine, beside its limits
	@"$(BIN)/python" -m bench

up: install ## start the local Kafka, PostgreSQL and ClickHouse
	@"$(BIN)/tollgate" up

down: install ## stop them; the data stays
	@"$(BIN)/tollgate" down

docs: install ## write the tables in docs/ anew from the code
	@PYTHONPATH=. "$(BIN)/python" docs/tables.py

# Two files: everything for a clone, and what the image of the stages needs, at the same versions.
lock: install ## write requirements.lock and requirements-image.lock anew from pyproject.toml
	@"$(BIN)/uv" pip compile pyproject.toml $(LOCKED) --all-extras --group dev -o requirements.lock
	@"$(BIN)/uv" pip compile pyproject.toml $(LOCKED) --extra server --group build --group image -c requirements.lock -o requirements-image.lock

sbom: install ## what the image is made of, by its lock, as CycloneDX: build/sbom.cdx.json
	@mkdir -p "$(dir $(SBOM))"
	@"$(BIN)/cyclonedx-py" requirements --output-reproducible --of JSON -o "$(SBOM)" requirements-image.lock
	@echo "$(SBOM)"

# The image installs a part of the same lock. PIP_AUDIT_OSV_URL names another service of its kind.
audit: install ## ask OSV for known vulnerabilities of everything that is locked; needs the internet
	@"$(BIN)/pip-audit" --disable-pip --require-hashes --progress-spinner off --vulnerability-service osv -r "$(LOCK)"

clean: ## stop the local stack and remove it with its data, .venv and every cache
	@if test -x "$(BIN)/tollgate"; then "$(BIN)/tollgate" down; fi
	@rm -rf "$(VENV)" .tollgate build ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
