# Each target makes the virtual environment that it needs; nothing outside this folder is touched.
PYTHON ?= python3
VENV   ?= .venv
WORKERS ?= 2
PIP     = -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: test older lint types prove demo gpu-check clean

test: $(VENV)/ready lint types ## everything that proves the code, in minutes
	$(VENV)/bin/python -m pytest -m "not slow" --numprocesses $(WORKERS) --dist loadfile

# numba, NumPy and torch can be told; onnxruntime's copy in this environment is rewritten
OLDER = NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES= ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2

older:                         ## the same tests as on an x86-64 processor with AVX2 and nothing newer
	$(MAKE) VENV=.venv-older .venv-older/older
	$(OLDER) .venv-older/bin/python -m pytest -m "not slow" --numprocesses $(WORKERS) --dist loadfile

.venv-older/older: .venv-older/ready tests/older_processor.py
	.venv-older/bin/python tests/older_processor.py .venv-older/lib/python*/site-packages
	touch $@

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# mypy sees the package as it is installed: three folders here, one package there
types: $(VENV)/ready
	rm -rf $(VENV)/typed build
	$(VENV)/bin/python $(PIP) --no-deps --target $(VENV)/typed .
	cd $(VENV) && MYPYPATH=typed bin/python -m mypy --config-file ../pyproject.toml -p zoedge

prove: $(VENV)/ready           ## the longer proofs
	$(VENV)/bin/python -m pytest -m slow

demo: .demo/ready              ## the main job: export, tune, eval
	.demo/venv/bin/python examples/digits/demo.py .demo/work

# bundles of models with random weights are exported on the processor, once: that takes minutes more
gpu-check: .venv-gpu/ready     ## on a machine with a GPU of NVIDIA: its tests and benchmark, in 6 minutes
	.venv-gpu/bin/python benchmarks/on_gpu.py make .venv-gpu/bundles
	.venv-gpu/bin/python -m tests.gpu.make_bundles .venv-gpu/bundles/tests
	.venv-gpu/bin/python benchmarks/on_gpu.py check --bundles .venv-gpu/bundles

$(VENV)/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) "torch==2.13.0"
	$(VENV)/bin/python $(PIP) -e ".[cpu,export,test]"
	touch $@

.venv-gpu/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python $(PIP) -e ".[cuda,export,test]"
	touch $@

.demo/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv .demo/venv
	.demo/venv/bin/python $(PIP) -e ".[cpu,onnx]" scikit-learn
	touch $@

clean:                         ## remove what the targets above made
	rm -rf $(VENV) .venv-older .venv-gpu .demo build *.egg-info gpu-check.json gpu-check.md
