# make demo    restore the example photo          make test   all checks and tests
# make lint    style and types alone              make docs   the site, in site/
# make fuzz    thousands of damaged files (FUZZ=2000 of each kind)
# make test-oldest    the core of the tests, with the oldest versions that pyproject.toml promises
#
# PYTHONS="python3.13 python3.12" chooses what the environment is made with: the first of them that there is.
PYTHONS ?= python3.11 python3.12 python3.13 python3 python
VENV := .venv
OLDEST := .venv-oldest
ifeq ($(OS),Windows_NT)
SHELL := bash.exe
SCRIPTS := Scripts
else
SCRIPTS := bin
endif
BIN := $(VENV)/$(SCRIPTS)
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
INSTALLED := $(VENV)/.installed
export NO_MKDOCS_2_WARNING := 1

# What restores and trains, compared with golden numbers. Left out is what needs newer tools to build distributions
# (docs, templates, plug-ins), and what does not depend on the versions of libraries (the command line, this repository).
CORE := $(wildcard tests/test_pipeline*.py) tests/test_build.py tests/test_parity.py \
    $(addprefix tests/,builtin data engine evaluation hardware models preparation prompts serving training)

.PHONY: demo test test-slow test-oldest fuzz lint docs

demo: $(INSTALLED)
	@mkdir -p demo
	@$(BIN)/xpsr upscale examples/photo.jpg -o demo/restored.png --overwrite
	@echo "The restored photo is $(CURDIR)/demo/restored.png"

test: lint
	$(BIN)/pytest
	$(BIN)/mkdocs build --strict --quiet

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Damaged images, settings, models and stores under another seed each time; FUZZ says how many of each.
FUZZ ?= 2000
fuzz: $(INSTALLED)
	XPSR_FUZZ=$(FUZZ) $(BIN)/pytest -q tests/files/test_fuzz.py

test-slow: $(INSTALLED)
	$(BIN)/pytest -m slow

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/$(SCRIPTS)/pytest -W default $(CORE)

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict --quiet
	@echo "The site is $(CURDIR)/site/index.html"

# Everything, the plug-ins of this repository included, in the tested versions.
$(INSTALLED): pyproject.toml constraints.txt $(PLUGINS:%=%/pyproject.toml)
	@for python in $(PYTHONS); do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	done || { echo "Python 3.11 or newer is needed." >&2; exit 1; }; \
	echo "Installing into $(VENV) (the first time takes some minutes)"; \
	test -x $(BIN)/python || $$python -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --editable '.[dev,docs]' $(PLUGINS:%=--editable %)
	@touch $@

# The oldest versions have no wheels for newer Pythons. Plug-ins come with it, since tests of training use one's fusions;
# all but xpsr-pyiqa and xpsr-ray, since pyiqa and Ray need newer versions.
$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt $(PLUGINS:%=%/pyproject.toml)
	test -x $(OLDEST)/$(SCRIPTS)/python || python3.11 -m venv $(OLDEST)
	$(OLDEST)/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt \
	    --editable '.[testing,openai,heic,smolvlm,bitsandbytes]' $(patsubst %,--editable %,$(filter-out plugins/xpsr-pyiqa plugins/xpsr-ray,$(PLUGINS)))
	@touch $@
