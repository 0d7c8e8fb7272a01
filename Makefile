# make train | test | slow | docs | wheels | clean.  ARGS goes to the training command or to pytest:
#   make train ARGS="--workdir=/data/runs --seed=3"
# JOBS: processes that share the tests out.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
ARGS ?=
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
MEMBERS := envs networks buffers algorithms runners
BUILD := build/wheels
# Only the installed packages count: nothing on PYTHONPATH may stand in for a missing dependency.
CLEAN_ENV := env -u PYTHONPATH -u VIRTUAL_ENV

.PHONY: train test slow docs wheels clean setup setup-dev $(MEMBERS:%=wheel-%)

train: setup
	$(BIN)/python -m runners.train --gin_file=gin/must_mt10.gin $(ARGS)

test: setup-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist=worksteal $(ARGS)

slow: setup-dev
	$(BIN)/pytest -m slow $(ARGS)

# The documentation as a site, in build/site: open build/site/index.html.
docs: setup-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

# The stamps are newer than what they were made from, so a second call installs nothing.
setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): once, a few minutes"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' > $(VENV)/dev.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -r $(VENV)/dev.txt
	touch $@

# Each member's wheel alone in an empty environment, its tests copied out of the tree: a forgotten
# dependency or a file missing from the wheel shows here and nowhere else.
wheels: $(MEMBERS:%=wheel-%)

$(BUILD)/.built: $(MEMBERS:%=%/pyproject.toml) $(foreach m,$(MEMBERS),$(wildcard $(m)/*.py $(m)/*.json $(m)/*.xml $(m)/py.typed)) | $(BIN)/python
	rm -rf $(BUILD)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(BUILD) $(MEMBERS:%=./%)
	touch $@

$(MEMBERS:%=wheel-%): wheel-%: $(BUILD)/.built
	@echo "== $*: its wheel alone"
	@set -eu; trap 'rm -rf build/alone-$*' EXIT; rm -rf build/alone-$*; mkdir -p build/alone-$*/away; \
	  $(BIN)/python -m venv build/alone-$*/venv; \
	  build/alone-$*/venv/bin/python -m pip install --quiet -c constraints.txt --find-links $(BUILD) $(BUILD)/polytask_$*-*.whl pytest; \
	  cp -R $*/tests build/alone-$*/away/tests; cp .ci/pytest.ini build/alone-$*/away/pytest.ini; \
	  cd build/alone-$*/away; $(CLEAN_ENV) ../venv/bin/pytest -p no:cacheprovider tests

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
