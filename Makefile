# Each target is one line, so that it can be read here and typed without make. `make` alone prints what there is.
.PHONY: help check test coverage docs demo bench instructions sim matrix deb lock changes
PYTHON = .venv/bin/python
SEEDS = 500
VERSIONS = 3.11 3.12 3.13 3.14
SAY = sed -n 's/^\#= \(make $@  *.*\)/\1/p' Makefile

#= make check      all that a change must pass: ruff, mypy, import contracts, tests; 20 to 25 minutes on two cores
#= make test       the tests alone; 12 to 22 minutes
#= make coverage   the part of each room that its own tests run, and its floor; two to ten minutes
#= make docs       the documentation site, into build/docs; half a minute
#= make demo       three nodes, a store and agents in network namespaces, as root; half a minute
#= make bench      netstored beside Debian's etcd, as root; two hours
#= make instructions  what requests cost in bytecodes and processor instructions, for the tests; two minutes
#= make sim        SEEDS=500 simulated clusters, fewer do not reach all; two minutes for 500; it goes on where it was stopped
#= make matrix     the tests that are not slow with Python 3.11 to 3.14, by uv; an hour
#= make deb        the Debian package of this checkout, into build/deb, with debhelper; two minutes
#= make lock       the newest releases into contrib/lock.txt, by uv; less than a minute
#= make changes    the changes since the last release; VERSION=1.2.0 puts them into CHANGELOG.md; less than a minute
#= The first of them installs .venv: a minute or two more, or five on a busy machine. Only matrix, deb and lock do without it.
help: ; @sed -n 's/^#= //p' Makefile

check: ; @$(SAY) && bash contrib/check
test: ; @$(SAY) && bash contrib/check tests
coverage: ; @$(SAY) && bash contrib/venv && $(PYTHON) -m contrib.coverage $(ROOMS)
docs: ; @$(SAY) && bash contrib/docs
demo: ; @$(SAY) && bash contrib/venv && $(PYTHON) -m contrib.demo
bench: ; @$(SAY) && bash contrib/venv && $(PYTHON) -m contrib.bench
instructions: ; @$(SAY) && bash contrib/venv && $(PYTHON) -m contrib.bench.instructions --renew
sim: ; @$(SAY) && bash contrib/venv && $(PYTHON) -m tests.sim --seeds $(SEEDS)
matrix: ; @$(SAY) && VERSIONS="$(VERSIONS)" bash contrib/matrix
deb: ; @$(SAY) && bash contrib/deb/build
lock: ; @$(SAY) && bash contrib/lock
changes: ; @$(SAY) && bash contrib/venv && if [ "$(VERSION)" ] || ls contrib/changes/*.*.md >/dev/null 2>&1; then $(PYTHON) -m towncrier build $(if $(VERSION),--yes --version $(VERSION),--draft --version Unreleased); else echo "no change since the last release: contrib/changes has no file of one"; fi
