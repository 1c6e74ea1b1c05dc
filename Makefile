# The two commands are `make book` and `make test`; both do all of their own set-up in .venv.
# Needed before: Python 3.11 with venv, make, and the system libraries that README.md names.

PYTHON ?= python3.11
WORKERS ?= logical
VENV := .venv
BIN := $(VENV)/bin
HTML := _build/html
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# One thread per process: the tests and the notebooks already fill the cores side by side.
export OMP_NUM_THREADS ?= 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.DEFAULT_GOAL := help
.PHONY: help book test check-book lint env clean distclean

help:
	@echo "make book        run the grid of study.yml on what is shipped, build $(HTML)/index.html"
	@echo "make test        run the tests"
	@echo "make check-book  open every page of the built book in headless Chromium, offline"
	@echo "make lint        ruff on the package, the tests and the notebooks"
	@echo "make clean       remove executed notebooks, results and the built book"
	@echo "make distclean   and the virtual environment"

# Snakemake runs what is missing or out of date, the book's HTML included; see workflow/Snakefile.
book: env
	@PATH="$(CURDIR)/$(BIN):$$PATH" snakemake $(if $(PROFILE),--config study_profile=$(PROFILE))
	@echo "The book: $(CURDIR)/$(HTML)/index.html"

test: export MPLBACKEND := agg
test: env
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile $(TESTS)

check-book: $(VENV)/.dev
	$(BIN)/python tests/bookcheck.py $(HTML) --screenshots _build/screenshots

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

env: $(VENV)/.package

# Each stamp is newer than what it was made from, so an unchanged environment costs nothing.
$(VENV)/.pinned: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	    { echo "Python 3.11 is needed; name it with make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -r requirements.txt
	@touch $@

$(VENV)/.package: pyproject.toml $(VENV)/.pinned
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.package
	$(PIP) install -r requirements-dev.txt
	@touch $@

clean:
	rm -rf book/runs results _build .snakemake

distclean: clean
	rm -rf $(VENV) .make
