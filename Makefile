# Everything that is done with this repository; CI calls the same targets.

PYTHON ?= python3
VENV := .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# What stands on make's command line reaches the commands with a prefix: make up PORT=6000 sets TOKENRELAY_PORT. A variable
# without it that the environment has, such as another project's REDIS_URL, reaches none of them.
STACK := ENGINE MODEL VLLM_ARGS GATEWAYS WORKERS PORT EDGE TLS REDIS_URL STATE REDIS_SECONDS START_SECONDS FOLLOW
BENCH := TARGET METRICS ENGINE MODEL VLLM_ARGS REDIS_URL GATEWAYS WORKERS EDGE TRACING SIMULATED_STEP_MS SIMULATED_SLOTS \
	CONCURRENCY ROUNDS RAMP_SECONDS RATES POINT_SECONDS INPUT_TOKENS PROMPTS OUTPUT_TOKENS SHARED WARM_UP SEED PROCESSES \
	CONNECTIONS GOODPUT_TTFT_MS GOODPUT_TPOT_MS RESULTS SYSTEMS REQUESTS LEAST_REQUESTS PIN STREAMS UNREAD \
	UNREAD_SECONDS
given = $(filter command,$(firstword $(origin $(1))))
passed_on = $(foreach name,$(2),$(if $(call given,$(name)),$(eval export $(1)$(name) = $$($(name)))))
$(call passed_on,TOKENRELAY_,$(STACK))
$(call passed_on,TOKENRELAY_BENCH_,$(BENCH))

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-bench bench bench-compare bench-memory profile demo up down status logs test test-gpu drill drill-long lint format verify generate reference lock model clean

help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: ## Installs into .venv what running needs; ENGINE=simulated leaves PyTorch and vLLM out, ACCELERATOR=cpu|gpu
	@$(PYTHON) tools/install.py $(if $(call given,ACCELERATOR),--accelerator $(ACCELERATOR))

setup-dev: ## Installs what tests and lint need, too
	@$(PYTHON) tools/install.py --dev $(if $(call given,ACCELERATOR),--accelerator $(ACCELERATOR))

setup-bench: ## Installs what benchmarks need, too
	@$(PYTHON) tools/install.py --bench $(if $(call given,ACCELERATOR),--accelerator $(ACCELERATOR))

demo: setup ## Starts everything, streams one answer of a real model, shows where the time went, stops everything; PORT=
	@$(VENV)/python -m deploy.local demo

up: setup ## Starts the stack, returns when it serves; ENGINE=vllm|simulated MODEL= VLLM_ARGS= GATEWAYS= WORKERS= PORT= EDGE= TLS= REDIS_URL=
	@$(VENV)/python -m deploy.local up

down: ## Stops the stack; open streams get up to 15 seconds to end
	@$(VENV)/python -m deploy.local down

status: ## Shows the stack's processes, and the models that it serves
	@$(VENV)/python -m deploy.local status

logs: ## Shows the last log lines; FOLLOW=1 goes on with new ones
	@$(VENV)/python -m deploy.local logs

# Files in their order: e2e has few tests that take long, and begun last they would run alone.
test: setup-dev ## Runs lint and all tests that need no GPU; JOBS=2 at a time
	@$(MAKE) --no-print-directory lint
	@$(VENV)/pytest --numprocesses $(if $(call given,JOBS),$(JOBS),2) --dist loadfile --no-loadscope-reorder

test-gpu: setup-dev ## Runs the tests that need a GPU
	@$(VENV)/pytest -m gpu

drill: setup-dev ## Kills, pauses and cuts off everything under load, a quarter of an hour; NAMES= SEED= EDGE=
	@$(VENV)/python -m drills $(if $(call given,NAMES),$(NAMES)) $(if $(call given,SEED),--seed $(SEED)) $(if $(call given,EDGE),--edge $(EDGE))

drill-long: setup-dev ## The same at the size of docs/promises.md, about an hour
	@$(VENV)/python -m drills $(if $(call given,NAMES),$(NAMES)) $(if $(call given,SEED),--seed $(SEED)) $(if $(call given,EDGE),--edge $(EDGE)) --long

bench: setup-bench ## Measures a stack under load; ENGINE= CONCURRENCY=1,16,64 RATES= INPUT_TOKENS= OUTPUT_TOKENS= TARGET= RESULTS=
	@$(VENV)/python -m bench run

bench-compare: setup-bench ## Compares with vLLM's own servers, in alternating rounds; SYSTEMS= CONCURRENCY= ROUNDS= MODEL= RESULTS=
	@$(VENV)/python -m bench compare

bench-memory: setup-bench ## Measures a gateway's memory: idle streams, clients that never read; STREAMS= CONNECTIONS= EDGE= RESULTS=
	@$(VENV)/python -m bench memory

profile: setup-bench ## Shows where the CPU time of each process goes, as flame graphs; ENGINE= CONCURRENCY= ROUNDS= RESULTS=
	@$(VENV)/python -m bench profile

lint: setup-dev ## ruff, mypy, import-linter, sizes, buf, and that the stubs are what the protos give
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy
	@$(VENV)/lint-imports
	@$(VENV)/python -m tools.measure
	@node_modules/.bin/buf lint protos
	@node_modules/.bin/buf format protos --diff --exit-code
	@$(MAKE) --no-print-directory verify

format: ## Formats Python and protos
	@$(VENV)/ruff check --fix .
	@$(VENV)/ruff format .
	@node_modules/.bin/buf format protos --write

generate: setup-dev ## Generates the stubs of protos/
	@sh tools/generate.sh

reference: setup-dev ## Writes docs/reference/ from the code
	@$(VENV)/python -m tools.reference

verify: ## Checks that the checked-in stubs are what the protos give
	@sh tools/verify.sh

lock: setup ## Resolves requirements/*.in into the pinned requirements/*.txt
	@sh tools/lock.sh

model: setup ## Trains the demo model anew
	@$(VENV)/python models/demo/train.py

clean: ## Removes what was installed and what ran
	@rm -rf .venv node_modules .tokenrelay
