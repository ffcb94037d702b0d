PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := $(BIN)/python -m experiments

.DEFAULT_GOAL := help
.PHONY: help install demo demo-nlg test lint format clean

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

test: $(STAMP) lint ## style and tests
	$(BIN)/python -m pytest -n 2

lint: $(STAMP) ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and caches; results in outputs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache *.egg-info
