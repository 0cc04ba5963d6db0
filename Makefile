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
LOGGER  ?=
DEVICES ?=
NODES   ?=
STRATEGY ?=
PRECISION ?=
RUN     ?=
SWEEP   ?= razh
AGENT   ?=
NAME    ?=
JOBS    ?= 1
TUNE    ?= 0
ARGS    ?=

BIN    := $(if $(VENV),$(VENV)/bin/)
SETUP  := $(PYTHON) src/razh/bootstrap.py --venv="$(VENV)" --faiss=$(FAISS)
RECIPE := --dataset=$(DATASET) --method=$(METHOD) --bits=$(BITS) --seed=$(SEED) $(if $(BACKBONE),--backbone=$(BACKBONE)) \
          $(if $(WEIGHTS),--weights="$(WEIGHTS)") $(if $(DATA_ROOT),--data_root="$(DATA_ROOT)") $(if $(RUN_DIR),--run_dir="$(RUN_DIR)") \
          $(if $(LOGGER),--logger=$(LOGGER)) $(if $(DEVICES),--trainer.devices=$(DEVICES)) $(if $(NODES),--trainer.num_nodes=$(NODES)) \
          $(if $(STRATEGY),--trainer.strategy=$(STRATEGY)) $(if $(PRECISION),--trainer.precision=$(PRECISION))
SEARCH := $(SWEEP) --dataset=$(DATASET) --bits=$(BITS) --seed=$(SEED) $(if $(filter-out file,$(origin METHOD)),--method=$(METHOD)) \
          $(if $(BACKBONE),--backbone=$(BACKBONE)) $(if $(WEIGHTS),--weights="$(WEIGHTS)") $(if $(DATA_ROOT),--data_root="$(DATA_ROOT)")
GRID   := $(NAME) $(if $(filter-out file,$(origin DATASET)),--dataset=$(DATASET)) $(if $(BACKBONE),--backbone=$(BACKBONE)) \
          $(if $(WEIGHTS),--weights="$(WEIGHTS)") $(if $(DATA_ROOT),--data_root="$(DATA_ROOT)") --jobs=$(JOBS) --tune=$(TUNE)

.DEFAULT_GOAL := help
.PHONY: help setup data train sweep tune test lint format benchmark ablate reproduce benchmark-retrieval benchmark-step benchmark-training clean

help: ## this menu
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo '  options: DATASET=synthetic METHOD=razh BITS=64 SEED=0 BACKBONE= WEIGHTS= DATA_ROOT= RUN_DIR= LOGGER=wandb,csv,tensorboard ARGS="--model.lr=1e-4"'
	@echo '  devices: DEVICES=2 NODES=1 STRATEGY=ddp PRECISION=bf16-mixed (docs/training.md)'
	@echo '  environment: VENV=.venv (empty: the active one) FAISS=auto|cpu|gpu PYTHON=python3'

setup: ## create .venv and install the project, once
	@$(SETUP)

data: ## download a data set: DATASET=cub|awa2|sun|cifar10
	@$(SETUP)
	@$(BIN)python -m razh data $(DATASET) $(if $(DATA_ROOT),--root="$(DATA_ROOT)")

train: ## train, rank the unseen classes, draw the figures
	@$(SETUP) $(if $(findstring tensorboard,$(LOGGER)),--extra=tensorboard)
	@$(BIN)python -m razh train $(RECIPE) $(ARGS)

sweep: ## search with W&B: SWEEP=razh|bits|methods|METHOD|FILE; AGENT=ENTITY/PROJECT/ID joins one; ARGS="--count=20"
	@$(SETUP)
	@$(BIN)python -m razh sweep $(if $(AGENT),--agent=$(AGENT),$(SEARCH)) $(ARGS)

tune: ## the same search on this machine, without a server: SWEEP=razh ARGS="--trials=20 --workers=1"
	@$(SETUP) --extra=tune
	@$(BIN)python -m razh tune $(SEARCH) $(ARGS)

test: ## run the tests
	@$(SETUP) --extra=test
	@$(BIN)python -m pytest -n 2 $(ARGS)

lint: ## ruff and mypy
	@$(SETUP) --extra=dev
	@$(BIN)ruff check . && $(BIN)ruff format --check . && $(BIN)mypy

format: ## let ruff format the code
	@$(SETUP) --extra=dev
	@$(BIN)ruff format . && $(BIN)ruff check --fix .

benchmark: ## methods beside each other: NAME=default|quick|smoke|FILE JOBS=1 TUNE=0, resumable
	@$(SETUP)
	@$(BIN)python -m razh benchmark $(GRID) $(ARGS)

ablate: ## the switches of RAZH, each against the whole method; NAME JOBS TUNE as above
	@$(SETUP)
	@$(BIN)python -m razh ablate $(GRID) $(ARGS)

reproduce: ## repeat a finished run from its configuration and compare: RUN=runs/synthetic/razh/64/seed0
	@$(SETUP)
	@$(BIN)python -m razh reproduce "$(RUN)" $(ARGS)

benchmark-retrieval: ## time the metrics beside the alternatives
	@$(SETUP) --extra=bench
	@OMP_NUM_THREADS=1 $(BIN)python benchmarks/retrieval.py $(ARGS)

benchmark-step: ## what each branch of RAZH adds to a training step
	@$(SETUP) --extra=bench
	@OMP_NUM_THREADS=1 $(BIN)python benchmarks/step.py $(ARGS)

benchmark-training: ## time training beside a plain loop, loaders beside PIL, cached beside live features
	@$(SETUP)
	@OMP_NUM_THREADS=1 $(BIN)python benchmarks/training.py $(ARGS)

clean: ## remove the environment (runs and data stay)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
