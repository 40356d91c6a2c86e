# make help lists what there is. Everything runs in .venv, which `make setup` makes once.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
READY := .venv/.ready

export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport VIRTUAL_ENV PYTHONPATH
# One thread a process: on few cores more threads wait for each other. Override it: OMP_NUM_THREADS=8 make demo
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive
# DVC asks what the user is called, and ends with an error where nothing says so.
ifeq ($(shell id -un 2>/dev/null)$(USER)$(LOGNAME),)
export USER := uid-$(shell id -u)
endif
# No tool reports home.
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0
export GX_ANALYTICS_ENABLED := False
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_HOME ?= $(CURDIR)/.state/prefect

.PHONY: help setup demo test lint ui serve audit clean

help:  ## list these targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 15

setup: $(READY)  ## make .venv with the tested set of packages (Python 3.11)

$(READY): requirements.lock pyproject.toml
	@for python in $${PYTHON:-} python3.11 python3 python; do \
		if $$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
		echo "Python 3.11 was not found: install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	[ -x .venv/bin/python ] || $$found -m venv .venv; \
	echo "installing into .venv (some GB, some minutes the first time)"; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .; \
	touch $(READY)

demo: setup  ## run the whole pipeline with params.yaml, then say what came out
	styleblend check
	dvc repro
	@styleblend report

test: lint  ## lint, types and all tests
	pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: setup  ## lint and types
	ruff check .
	ruff format --check .
	mypy

ui: setup  ## open MLflow on http://127.0.0.1:5000
	@store=$$(styleblend tracking); \
	case $$store in http*) echo "MLflow runs at $$store already: tracking.uri of params.yaml says so"; exit 0;; esac; \
	echo "MLflow: http://127.0.0.1:5000 (choose 'Model training' on top; Ctrl-C ends it)"; \
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false exec mlflow server --backend-store-uri "$$store" \
		--default-artifact-root ./mlruns --host 127.0.0.1 --port 5000 --workers 1

serve: setup  ## retrain on schedule, on new photographs, on demand; Prefect on http://127.0.0.1:4200
	@exec python flows/server.py

audit: setup  ## look for known holes in the locked packages (asks PyPI: needs internet)
	@# An environment of its own, so that the tested set stays what it is.
	@[ -x .state/audit/bin/pip-audit ] || { python -m venv .state/audit; \
		.state/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }
	@.state/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict --progress-spinner off || \
		{ echo "audit: a package has a known hole, or PyPI could not be asked: the lines above say which" >&2; exit 1; }

clean:  ## remove what the pipeline made; MLflow's records, fetched weights and the environment stay
	@[ ! -d .state ] || find .state -mindepth 1 -maxdepth 1 ! -name weights -exec rm -rf {} +
	rm -rf data/raw data/faces data/perceived.parquet data/selection.parquet data/splits data/models data/pretrained/networks reports
	rm -rf .pytest_cache .mypy_cache .ruff_cache
