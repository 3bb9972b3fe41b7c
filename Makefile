# make demo    restore the example photo          make test   all checks and tests
# make lint    style and types alone              make docs   the site, in site/
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
INSTALLED := $(VENV)/.installed
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test lint docs

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

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict --quiet
	@echo "The site is $(CURDIR)/site/index.html"

# Everything, the plug-ins of this repository included, in the tested versions.
$(INSTALLED): pyproject.toml constraints.txt $(PLUGINS:%=%/pyproject.toml)
	@for python in python3.11 python3.12 python3.13 python3; do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	done || { echo "Python 3.11 or newer is needed." >&2; exit 1; }; \
	echo "Installing into $(VENV) (the first time takes some minutes)"; \
	test -x $(BIN)/python || $$python -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --editable '.[dev,docs]' $(PLUGINS:%=--editable %)
	@touch $@
