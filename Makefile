PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := .venv-lock/bin/uv
PIP_INSTALL := bin/pip install --quiet --disable-pip-version-check
TORCH := 2.13.0
RUN := $(BIN)/python -m experiments

# every experiment of experiments/catalog.yaml is a target; SCALE=mini: its form on built-in models; ARGS: further overrides
SCALE ?= full
$(if $(filter-out full mini,$(SCALE)),$(error SCALE is full or mini, not $(SCALE)))
EXPERIMENTS := $(basename $(notdir $(wildcard conf/experiment/*.yaml)))
TABLES := $(filter table%,$(EXPERIMENTS))
FIGURES := $(filter figure%,$(EXPERIMENTS))
STUDIES := prilora prilora_ablations prilora_ratios related_work qlora cross_task_stability \
	sampling_stability cross_kind_stability understanding_generation layer_removal \
	layer_removal_generation threshold_sensitivity threshold_sensitivity_large rank_study \
	rank_study_scaled gsm8k criteria shared_init learning_rate_sensitivity

# ours is Apache-2.0; docutils lets one choose the BSD licence
LICENCES := --partial-match --ignore-packages docutils --fail-on 'GNU General Public;GNU Affero;GPL-2;GPL-3;AGPL'
# on the built-in models as many runs at once as there are cores; LAUNCHER= for one after the other
LAUNCHER = $(if $(filter mini,$(SCALE))$(filter demo%,$@),hydra/launcher=cores)

.DEFAULT_GOAL := help
.PHONY: help install demo-nlg evidence report docs bench tables studies $(EXPERIMENTS) check test lint format clean
.PHONY: lock test-newest test-oldest test-slurm test-faults audit

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make the environment in .venv, once, with the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/$(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	touch $@

# torch: always TORCH, without a local version, so that pip's configuration picks the CPU's or a GPU's build. What only its GPU
# builds need is left out: each build names exact versions of its own
lock: $(UV) ## rewrite constraints.txt with the newest versions that pyproject.toml allows, for Python 3.11 and later; TORCH=2.13.0
	echo torch==$(TORCH) | $(UV) pip compile pyproject.toml --all-extras --constraints - --upgrade --universal --python-version 3.11 \
	    --no-annotate --custom-compile-command 'make lock' --quiet --output-file constraints.txt
	sed -i.old -E '/^(nvidia|cuda)-|^triton=/d' constraints.txt && rm constraints.txt.old

$(UV): # a resolver for all Pythons at once, and for lowest versions; it is not installed into the environment that it resolves
	$(PYTHON) -m venv .venv-lock
	.venv-lock/$(PIP_INSTALL) uv

demo: ## LoRA, LoRA-drop and LoRA-drop without sharing on the built-in model: a table and a picture

demo-nlg: demo_nlg ## the same on a built-in decoder that puts records into sentences

tables: $(TABLES) $(FIGURES) ## all tables and figures of the paper; one: make table7; on built-in models: SCALE=mini; two at a time, past failures: -j2 -k

studies: $(STUDIES) ## PRILoRA's comparison and ablations, and the studies beyond the papers; one: make rank_study; SCALE as above

$(EXPERIMENTS): $(STAMP)
	$(RUN).reproduce $@ $(if $(filter mini,$(SCALE)),--mini) $(LAUNCHER) $(ARGS)

evidence: $(STAMP) ## docs/evidence.md, its figures and docs/questions.md, from the committed results
	$(RUN).claims

report: $(STAMP) ## all results as one page, outputs/report.html; ARGS="table7 --to PATH": one experiment, another file
	$(RUN).report $(ARGS)

docs: $(STAMP) ## the site: guide, how-to pages, API, in outputs/docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs outputs/docs

bench: $(STAMP) ## speed and memory in turns, as ratios: outputs/benchmark (docs/performance.md), 30 minutes on two idle cores
	$(BIN)/python -m experiments.benchmark $(ARGS)

check: $(STAMP) lint ## style, types and the quick tests, for every commit: 90 seconds on two cores
	$(BIN)/python -X utf8 -m pytest -n 2 -m "not slow"

test: $(STAMP) lint ## style, types and all tests, before a pull request
	$(BIN)/python -X utf8 -m pytest -n 2

test-faults: $(STAMP) ## the long form of the fault suite: flipped bits, kills, small disks, random configs and data files: 25 minutes
	rm -f outputs/faults.txt
	FAULTS=long $(BIN)/python -X utf8 -m pytest tests/faults; status=$$?; cat outputs/faults.txt; exit $$status

test-slurm: $(STAMP) ## a sweep on a real Slurm of one node, with a cancelled and a timed-out job: 6 minutes; needs root and Slurm's packages
	$(BIN)/python -X utf8 -m pytest -m slurm -rs

audit: $(STAMP) ## known vulnerabilities and the licences of all dependencies, in .venv-audit
	$(PYTHON) -m venv .venv-audit
	.venv-audit/$(PIP_INSTALL) pip-audit pip-licenses
	.venv-audit/bin/pip-licenses --python $(BIN)/python $(LICENCES) --summary
	.venv-audit/bin/pip-audit --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

test-newest: ## the tests with the newest versions that pip finds, in .venv-newest
	$(PYTHON) -m venv .venv-newest
	.venv-newest/$(PIP_INSTALL) --upgrade --upgrade-strategy eager -e '.[dev]'
	.venv-newest/bin/python -X utf8 -m pytest -n 2

test-oldest: $(UV) ## the tests with every direct dependency at its lower bound, in .venv-oldest; PYTHON=python3.11
	$(PYTHON) -m venv .venv-oldest
	$(UV) pip compile pyproject.toml --extra dev --resolution lowest-direct --upgrade --python .venv-oldest/bin/python \
	    --quiet --output-file .venv-oldest/constraints.txt
	.venv-oldest/$(PIP_INSTALL) -c .venv-oldest/constraints.txt -e '.[dev]'
	.venv-oldest/bin/python -X utf8 -m pytest -n 2

lint: $(STAMP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and caches; results in outputs/ stay
	rm -rf $(VENV) .venv-newest .venv-oldest .venv-lock .venv-audit .pytest_cache .ruff_cache .mypy_cache *.egg-info
