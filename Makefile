PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := $(BIN)/python -m experiments

# every experiment of experiments/catalog.yaml is a target; SCALE=mini: its form on built-in models; ARGS: further overrides
SCALE ?= full
$(if $(filter-out full mini,$(SCALE)),$(error SCALE is full or mini, not $(SCALE)))
EXPERIMENTS := $(basename $(notdir $(wildcard conf/experiment/*.yaml)))
TABLES := $(filter table%,$(EXPERIMENTS))
FIGURES := $(filter figure%,$(EXPERIMENTS))
STUDIES := prilora prilora_ablations cross_task_stability sampling_stability layer_removal \
	threshold_sensitivity rank_study learning_rate_sensitivity

.DEFAULT_GOAL := help
.PHONY: help install demo-nlg docs tables studies $(EXPERIMENTS) test lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make the environment in .venv, once

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: ## LoRA, LoRA-drop and no_share on the built-in model: a table and a picture

demo-nlg: demo_nlg ## the same on a built-in decoder that puts records into sentences

tables: $(TABLES) $(FIGURES) ## all tables and figures of the paper (one alone: make table7): SCALE=mini on built-in models; -j2 two at a time, -k past failures

studies: $(STUDIES) ## PRILoRA's comparison and ablations, and what lies beyond the papers; SCALE as above

$(EXPERIMENTS): $(STAMP)
	$(RUN).reproduce $@ $(if $(filter mini,$(SCALE)),--mini) $(ARGS)

docs: $(STAMP) ## pages of the library's docstrings and guides, in outputs/docs
	$(BIN)/pdoc -o outputs/docs --math loradrop loradrop.lora loradrop.importance.measurement loradrop.selection loradrop.sharing loradrop.sampling loradrop.io.pretrained loradrop.io.loralib loradrop.io.merging loradrop.callbacks.base loradrop.callbacks.trainer loradrop.callbacks.lightning

test: $(STAMP) lint ## style and tests
	$(BIN)/python -m pytest -n 2

lint: $(STAMP) ## style, and the types of what `import loradrop` offers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and caches; results in outputs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info
