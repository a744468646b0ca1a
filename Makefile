# Two commands do all the set-up: `make demo` and `make test`.
.PHONY: demo test lint bench results wheel deb docs clean
VENV := .venv/bin

demo:
	scripts/setup.sh run
	$(VENV)/dicomnode demo

test:
	scripts/system-packages.sh
	scripts/viewer.sh
	scripts/setup.sh test
	$(VENV)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint:
	scripts/setup.sh test
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports

bench:
	scripts/system-packages.sh
	scripts/setup.sh test
	@for program in benchmarks/*.py; do echo "== $$program"; PYTHONPATH=. $(VENV)/python $$program || exit 1; done

results:
	scripts/setup.sh test
	$(VENV)/python scripts/results.py

wheel:
	scripts/setup.sh test
	$(VENV)/python -m pip wheel --quiet --no-deps -w dist .

deb:
	scripts/setup.sh test
	scripts/deb.sh

docs:
	scripts/setup.sh test
	$(VENV)/python -m scripts.reference
	$(VENV)/mkdocs build --quiet --strict

clean:
	rm -rf .venv .viewer build dist .pytest_cache .mypy_cache .ruff_cache
