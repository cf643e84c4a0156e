# `make quickstart` and `make test` do everything on a fresh clone: environment, packages, then the work.
PYTHON ?= python3.11
comma := ,
VENV := .venv
BIN := $(VENV)/bin
# What benchmarks compare with: packages that must not mix with ours.
PEERS := .venv-peers
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo yes)
# The CPU build of vLLM exists for Linux on x86-64; elsewhere transformers serves the annotator.
SERVE := $(if $(GPU),serve,$(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),serve-cpu))
EXTRAS := train,deepspeed,dev$(if $(SERVE),$(comma)$(SERVE))
# Two test files at a time, each in one thread; the tests of a file share their servers and trainings.
SIDE_BY_SIDE := -n 2 --dist loadfile
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DO_NOT_TRACK := 1

.PHONY: help install quickstart up test test-all test-fast lint bench teacher clean

help:           ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

quickstart: install  ## The main job on the embedded miniature: data set, validation, training, scores
	$(BIN)/umer1 quickstart

up: install     ## Prefect server, worker and deployments
	$(BIN)/umer1 up

test: install   ## All tests, with a run of the main job at reduced size
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not matrix"

test-all: install  ## Also every kind of parallel training in all its tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-fast: install  ## Without those that start a server or train
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow and not matrix"

lint: install   ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy umer1_core schemas tasks flows

bench: install $(PEERS)/installed  ## Benchmarks; NAME=annotation for one group
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench $(NAME)

teacher: install  ## Train the miniature's teacher anew
	OMP_NUM_THREADS=1 $(BIN)/python -m umer1_core.miniature.teacher --out umer1_core/miniature/teacher

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml deploy/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing umer1[$(EXTRAS)] into $(VENV) ($(if $(GPU),GPU,CPU)); the first time takes a few minutes."
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]' --constraint deploy/constraints.txt
	@# These two link CUDA libraries and break transformers on a CPU torch; nothing here uses them.
	$(if $(GPU),,$(BIN)/python -m pip uninstall --quiet --yes torchaudio torchcodec)
	touch $@

$(PEERS)/installed: tests/bench/peers/requirements.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --requirement $<
	touch $@

clean:          ## Remove the environments and what runs have made
	rm -rf $(VENV) $(PEERS) runs build *.egg-info
