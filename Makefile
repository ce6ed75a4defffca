# Every target sets up its own virtual environment first; the environment is kept until pyproject.toml changes.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test test-slow lint docs pictures paper wheel calibration clean

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(READY)
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -b html docs build/docs

pictures: $(READY)
	$(BIN)/python docs/gallery.py
	$(BIN)/python docs/tutorials/make.py

paper: $(READY)
	$(BIN)/python -m pip install --quiet --editable ".[paper]"
	$(BIN)/python paper/build.py

wheel: $(READY)
	$(BIN)/python -m build

calibration: $(READY)
	$(BIN)/python docs/calibration.py

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) runs build *.egg-info
