# Each target is one line, so that it can be read here and typed without make.
.PHONY: check test demo bench

check: ; bash contrib/check
test:  ; bash contrib/check tests
demo:  ; .venv/bin/python -m contrib.demo
bench: ; .venv/bin/python -m contrib.bench
