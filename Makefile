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

# What a user types arrives as typed: make would run `$(shell …)` in it, so its unexpanded text goes into the environment,
# and the shell takes it from there, quoted. ARGS is split into options in Python.
NAMES := PYTHON VENV FAISS DATASET METHOD BITS SEED BACKBONE WEIGHTS DATA_ROOT RUN_DIR LOGGER DEVICES NODES STRATEGY PRECISION \
         RUN SWEEP AGENT NAME JOBS TUNE ARGS
GIVEN := $(foreach name,$(NAMES),$(if $(filter-out file,$(origin $(name))),$(name)))
$(foreach name,$(NAMES),$(eval override export $(name) := $$(value $(name))))

option = $${$1:+--$2="$$$1"}
given  = $(if $(filter $1,$(GIVEN)),$(option))
COMMON := $(call option,BACKBONE,backbone) $(call option,WEIGHTS,weights) $(call option,DATA_ROOT,data_root)
RECIPE := --dataset="$$DATASET" --method="$$METHOD" --bits="$$BITS" --seed="$$SEED" $(COMMON) $(call option,RUN_DIR,run_dir) \
          $(call option,LOGGER,logger) $(call option,DEVICES,trainer.devices) $(call option,NODES,trainer.num_nodes) \
          $(call option,STRATEGY,trainer.strategy) $(call option,PRECISION,trainer.precision)
SEARCH := "$$SWEEP" --dataset="$$DATASET" --bits="$$BITS" --seed="$$SEED" $(call given,METHOD,method) $(COMMON)
GRID   := $${NAME:+"$$NAME"} $(call given,DATASET,dataset) $(COMMON) --jobs="$$JOBS" --tune="$$TUNE"
# Sets the environment up, then runs its Python with what follows `--`, and ARGS.
IN     := "$$PYTHON" tools/bootstrap.py --venv="$$VENV" --faiss="$$FAISS"

.DEFAULT_GOAL := help
.PHONY: help setup data train demo sweep tune test lint docs format benchmark report ablate reproduce benchmark-retrieval benchmark-step benchmark-training benchmark-startup clean

help: ## this menu
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo '  options: DATASET=synthetic METHOD=razh BITS=64 SEED=0 BACKBONE= WEIGHTS= DATA_ROOT= RUN_DIR= LOGGER=wandb,csv,tensorboard ARGS="--model.lr=1e-4"'
	@echo '  devices: DEVICES=2 NODES=1 STRATEGY=ddp PRECISION=bf16-mixed (docs/how-to/training.md)'
	@echo '  environment: VENV=.venv (empty: the active one) FAISS=auto|cpu|gpu PYTHON=python3'

setup: ## create .venv and install the project, once
	@$(IN)

data: ## download a data set: DATASET=cub|awa2|sun|cifar10
	@$(IN) -- -m razh data "$$DATASET" $(call option,DATA_ROOT,root)

train: ## train, rank the unseen classes, draw the figures
	@$(IN) $(if $(findstring tensorboard,$(value LOGGER)),--extra=tensorboard) --args="$$ARGS" -- -m razh train $(RECIPE)

demo: ## a page to search with: synthetic creatures, or DATA_ROOT=photos/ without labels; ARGS="--port=8080"
	@$(IN) --extra=serve --args="$$ARGS" -- tools/demo.py $(call option,DATA_ROOT,data_root) $(call option,BACKBONE,backbone) $(call option,WEIGHTS,weights)

sweep: ## search with W&B: SWEEP=razh|bits|methods|METHOD|FILE; AGENT=ENTITY/PROJECT/ID joins one; ARGS="--count=20"
	@$(IN) --args="$$ARGS" -- -m razh sweep $(if $(value AGENT),$(call option,AGENT,agent),$(SEARCH))

tune: ## the same search on this machine, without a server: SWEEP=razh ARGS="--trials=20 --workers=1"
	@$(IN) --extra=tune --args="$$ARGS" -- -m razh tune $(SEARCH)

test: ## run the tests
	@OMP_NUM_THREADS=1 $(IN) --extra=test --args="$$ARGS" -- -m pytest -n 2

lint: ## ruff and mypy
	@$(IN) --extra=dev -- -m ruff check .
	@$(IN) --extra=dev -- -m ruff format --check .
	@$(IN) --extra=dev -- -m mypy

docs: ## the documentation as a site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(IN) --extra=docs --args="$$ARGS" -- -m mkdocs build --strict

format: ## let ruff format the code
	@$(IN) --extra=dev -- -m ruff format .
	@$(IN) --extra=dev -- -m ruff check --fix .

benchmark: ## methods beside each other: NAME=default|quick|smoke|FILE JOBS=1 TUNE=0, resumable
	@$(IN) --args="$$ARGS" -- -m razh benchmark $(GRID)

report: ## all tables and curves of docs/cells.csv.xz, into runs/report; ARGS="--into README.md docs/results.md"
	@$(IN) --args="$$ARGS" -- -m razh report --cells docs/cells.csv.xz $(if $(value ARGS),,--write runs/report)

ablate: ## the switches of RAZH, each against the whole method; NAME JOBS TUNE as above
	@$(IN) --args="$$ARGS" -- -m razh ablate $(GRID)

reproduce: ## repeat a finished run from its configuration and compare: RUN=runs/synthetic/razh/64/seed0
	@$(IN) --args="$$ARGS" -- -m razh reproduce "$$RUN"

benchmark-retrieval: ## time the metrics beside the alternatives
	@OMP_NUM_THREADS=1 $(IN) --extra=bench --args="$$ARGS" -- benchmarks/retrieval.py

benchmark-step: ## what each branch of RAZH adds to a training step
	@OMP_NUM_THREADS=1 $(IN) --extra=bench --args="$$ARGS" -- benchmarks/step.py

benchmark-training: ## time training beside a plain loop, loaders beside PIL, cached beside live features
	@OMP_NUM_THREADS=1 $(IN) --args="$$ARGS" -- benchmarks/training.py

benchmark-startup: ## how long the command line takes to start, and one search in a million codes
	@OMP_NUM_THREADS=1 $(IN) --args="$$ARGS" -- benchmarks/startup.py

clean: ## remove the environment (runs and data stay)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
