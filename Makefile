# Each target is one line, so that it can be read here and typed without make.
.PHONY: check test demo bench sim
PYTHON = .venv/bin/python
SEEDS = 500

check: ; bash contrib/check
test: ; bash contrib/check tests
demo: $(PYTHON) ; $(PYTHON) -m contrib.demo
bench: $(PYTHON) ; $(PYTHON) -m contrib.bench
sim: $(PYTHON) ; python3 -m pip --python $(PYTHON) install -q '.[test]' && $(PYTHON) -m tests.sim --seeds $(SEEDS)

$(PYTHON): ; python3 -m venv --without-pip .venv && python3 -m pip --python $(PYTHON) install -q .
