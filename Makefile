# Needs Python 3.11 or newer and make; everything else is installed into .venv from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test check faults bench lock clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/headrace demo $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

# The same load on Faust's own commit has to lose requests, or the first run proves nothing.
faults: $(STAMP)
	@$(BIN)/python -m tests.faults.kill $(ARGS)
	@$(BIN)/python -m tests.faults.kill --stock-commit $(ARGS)

bench: $(STAMP)
	@$(BIN)/python -m tests.bench $(ARGS)

COMPILE := $(BIN)/uv pip compile pyproject.toml --override requirements.override --generate-hashes --universal \
	--python-version 3.11 --no-emit-index-url --custom-compile-command "make lock" --quiet

# The image's lock is the same versions without the extras.
lock: $(STAMP)
	@$(COMPILE) --all-extras --output-file requirements.lock
	@$(COMPILE) --constraint requirements.lock --output-file infra/requirements.image.lock

clean:
	rm -rf $(VENV) .headrace
