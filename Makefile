# Two commands: `make demo` runs the whole way on one robot, `make test` runs the checks. Both set up .venv first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LINKS := build/links/simtoreal
DEMO ?= PandaReach
WORKERS ?= 2

.PHONY: install demo test lint bench soak lock clean
.DEFAULT_GOAL := install

install: $(READY)

$(READY): requirements.lock pyproject.toml robots/pd_loop.c policies/sum_tree.c
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else f"simtoreal needs Python 3.11 or later, $(PYTHON) is {v[0]}.{v[1]}; name another with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY)
	$(BIN)/python -m simtoreal demo $(DEMO) --force

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The type checker reads a tree of links, in which the five folders lie as they are installed.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf build/links && mkdir -p $(LINKS)
	@ln -s $(CURDIR)/simtoreal/* $(LINKS)/
	@ln -s $(CURDIR)/robots $(CURDIR)/randomization $(CURDIR)/policies $(CURDIR)/export $(LINKS)/
	MYPYPATH=build/links $(BIN)/mypy -p simtoreal

bench: $(READY)
	$(BIN)/python -m simtoreal bench

# Trainings killed with kill -9 twenty times must end as undisturbed ones do; takes some ten minutes. And the
# tests of tasks with every robot, which `make test` makes with one of each family, and 10,000 resets on new ground.
soak: $(READY)
	SIMTOREAL_SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) tests/robots tests/simtoreal/test_randomness.py
	SIMTOREAL_SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) -m soak tests/policies tests/simtoreal
	$(BIN)/python tests/soak.py

# After a change to requirements in pyproject.toml. torch is left out: which build is right depends on the machine.
lock:
	@mkdir -p build
	printf "torch; python_version < '3'\n" > build/no-torch.txt
	uv pip compile pyproject.toml --extra dev --override build/no-torch.txt --generate-hashes --python-version 3.11 \
		--no-header --no-annotate --upgrade --quiet -o requirements.lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
