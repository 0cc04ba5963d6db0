# A menu: one line a target, the logic is in Python. `make help` lists it.
PYTHON  ?= python3
VENV    ?= .venv
FAISS   ?= auto
DATASET ?= synthetic
METHOD  ?= razh
BITS    ?= 64
SEED    ?= 0
BACKBONE ?=
WEIGHTS ?=
DATA_ROOT ?=
RUN_DIR ?=
ARGS    ?=

BIN    := $(if $(VENV),$(VENV)/bin/)
SETUP  := $(PYTHON) src/razh/bootstrap.py --venv="$(VENV)" --faiss=$(FAISS)
RECIPE := --dataset=$(DATASET) --method=$(METHOD) --bits=$(BITS) --seed=$(SEED) $(if $(BACKBONE),--backbone=$(BACKBONE)) \
          $(if $(WEIGHTS),--weights="$(WEIGHTS)") $(if $(DATA_ROOT),--data_root="$(DATA_ROOT)") $(if $(RUN_DIR),--run_dir="$(RUN_DIR)")

.DEFAULT_GOAL := help
.PHONY: help setup data train test lint format benchmark-retrieval clean

help: ## this menu
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo '  options: DATASET=synthetic METHOD=razh BITS=64 SEED=0 BACKBONE= WEIGHTS= DATA_ROOT= RUN_DIR= ARGS="--model.lr=1e-4"'
	@echo '  environment: VENV=.venv (empty: the active one) FAISS=auto|cpu|gpu PYTHON=python3'

setup: ## create .venv and install the project, once
	@$(SETUP)

data: ## download a data set: DATASET=cub|awa2|sun|cifar10
	@$(SETUP)
	@$(BIN)python -m razh data $(DATASET) $(if $(DATA_ROOT),--root="$(DATA_ROOT)")

train: ## train, rank the unseen classes, draw the figures
	@$(SETUP)
	@$(BIN)python -m razh train $(RECIPE) $(ARGS)

test: ## run the tests
	@$(SETUP) --extra=test
	@$(BIN)python -m pytest -n 2 $(ARGS)

lint: ## ruff and mypy
	@$(SETUP) --extra=dev
	@$(BIN)ruff check . && $(BIN)ruff format --check . && $(BIN)mypy

format: ## let ruff format the code
	@$(SETUP) --extra=dev
	@$(BIN)ruff format . && $(BIN)ruff check --fix .

benchmark-retrieval: ## time the metrics beside the alternatives
	@$(SETUP) --extra=bench
	@OMP_NUM_THREADS=1 $(BIN)python benchmarks/retrieval.py $(ARGS)

clean: ## remove the environment (runs and data stay)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
