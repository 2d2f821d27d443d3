# Each target makes the virtual environment that it needs; nothing outside this folder is touched.
PYTHON ?= python3
VENV   ?= .venv
WORKERS ?= 2
PIP     = -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: test lint types prove demo clean

test: $(VENV)/ready lint types ## everything that proves the code, in minutes
	$(VENV)/bin/python -m pytest -m "not slow" --numprocesses $(WORKERS) --dist loadfile

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# mypy sees the package as it is installed: three folders here, one package there
types: $(VENV)/ready
	rm -rf $(VENV)/typed
	$(VENV)/bin/python $(PIP) --no-deps --target $(VENV)/typed .
	cd $(VENV) && MYPYPATH=typed bin/python -m mypy --config-file ../pyproject.toml -p zoedge

prove: $(VENV)/ready           ## the longer proofs
	$(VENV)/bin/python -m pytest -m slow

demo: .demo/ready              ## the main job: export, tune, eval
	.demo/venv/bin/python examples/digits/demo.py .demo/work

$(VENV)/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) "torch==2.13.0"
	$(VENV)/bin/python $(PIP) -e ".[cpu,export,test]"
	touch $@

.demo/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv .demo/venv
	.demo/venv/bin/python $(PIP) -e ".[cpu,onnx]" scikit-learn
	touch $@

clean:                         ## remove what the targets above made
	rm -rf $(VENV) .demo build *.egg-info
