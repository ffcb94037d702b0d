PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := $(BIN)/python -m experiments

# SCALE=mini carries an experiment out on built-in models and tasks, by the overrides in the head of its YAML; ARGS are further ones
SCALE ?= full
$(if $(filter-out full mini,$(SCALE)),$(error SCALE is full or mini, not $(SCALE)))
EXPERIMENTS := $(basename $(notdir $(wildcard conf/experiment/*.yaml)))
TABLES := $(filter table%,$(EXPERIMENTS))
FIGURES := $(filter figure%,$(EXPERIMENTS))
DRAWN := $(shell sed -n 's/^\([a-z_0-9]*\):.*/\1/p' experiments/figures.yaml)
STUDIES := prilora prilora_ablations $(filter-out figure%,$(DRAWN))
mini = $(if $(filter mini,$(SCALE)),$(shell sed -n 's/^\# Mini: //p' conf/experiment/$@.yaml))

.DEFAULT_GOAL := help
.PHONY: help install demo demo-nlg docs tables studies $(TABLES) $(FIGURES) $(STUDIES) check test lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make the environment in .venv, once

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(STAMP) ## LoRA, LoRA-drop and no_share on the built-in model: a table and a picture
	$(RUN).run experiment=demo
	$(RUN).table demo
	$(RUN).figure demo

demo-nlg: $(STAMP) ## the same on a built-in decoder that puts records into sentences
	$(RUN).run experiment=demo_nlg
	$(RUN).table demo_nlg
	$(RUN).figure demo_nlg

tables: $(TABLES) $(FIGURES) ## all tables and figures of the paper (one alone: make table7): SCALE=mini on built-in models; -j2 two at a time, -k past failures

studies: $(STUDIES) ## PRILoRA's comparison and ablations, and what lies beyond the papers; SCALE as above

$(TABLES) $(FIGURES) $(STUDIES): $(STAMP)
	$(RUN).run experiment=$@ $(mini) $(ARGS)
	$(if $(filter figure%,$@),,$(RUN).table $@ $(mini) $(ARGS))
	$(if $(filter $@,$(DRAWN)),$(RUN).figure $@ $(mini) $(ARGS))

docs: $(STAMP) ## pages of the library's docstrings and guides, in outputs/docs
	$(BIN)/pdoc -o outputs/docs --math loradrop loradrop.lora loradrop.importance.measurement loradrop.selection loradrop.sharing loradrop.sampling loradrop.io.pretrained loradrop.io.loralib loradrop.io.merging loradrop.callbacks.base loradrop.callbacks.trainer loradrop.callbacks.lightning

check: $(STAMP) lint ## style, types and the quick tests, for every commit: 90 seconds on two cores
	$(BIN)/python -m pytest -n 2 -m "not slow"

test: $(STAMP) lint ## style, types and all tests, before a pull request
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
