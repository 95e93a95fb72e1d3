# make demo   the whole line on the embedded corpus: train, distil, refine, export, measure
# make test   the tests
# Both make their own virtual environment first, and skip what is done when run again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo
INSTALLED := $(VENV)/.installed
export ORT_DISABLE_TELEMETRY := 1

.PHONY: demo test lint bench docs clean

$(INSTALLED): pyproject.toml runtime/pyproject.toml constraints.txt
	@echo "== install: edgetext, edgetext-runtime and what they need, into $(VENV) (a few minutes, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ./runtime -e '.[dev]'
	@touch $@

$(RUN)/result.json: | $(INSTALLED)
	@echo "== distill: corpus, teacher, student, refinement, into $(RUN) (seven to eleven minutes on two cores)"
	$(BIN)/edgetext distill --run $(RUN) --resume

$(RUN)/student-%.etx: $(RUN)/result.json
	@echo "== export: the student's $* bundle, checked against torch"
	$(BIN)/edgetext export $(RUN) --$* -o $@ --force

$(RUN)/bench.json: $(RUN)/student-int8.etx $(RUN)/student-fp32.etx
	@echo "== bench: int8 beside fp32, at 1 and 2 threads"
	$(BIN)/edgetext bench $^ -o $@ --force

demo: $(RUN)/bench.json
	@echo "== result: teacher and student side by side, then three samples of the int8 bundle"
	@$(BIN)/edgetext report $(RUN)
	@for seed in 1 2 3; do \
	  echo; echo "--- edgetext generate $(RUN)/student-int8.etx --seed $$seed"; \
	  $(BIN)/edgetext generate $(RUN)/student-int8.etx --seed $$seed --temperature 0.7 --max-new-tokens 80 || exit 1; \
	done
	@echo; echo "== done; 'rm -r $(RUN)' to start again"

test: $(INSTALLED)
	@echo "== test"
	$(BIN)/python -m pytest -q

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(RUN)/bench.json
	$(BIN)/python -m edgetext_bench.startup

docs: $(INSTALLED)
	$(BIN)/python docs/make_cli_reference.py

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
