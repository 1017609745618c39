# Each target does all the set-up that it needs (tools/setup), so any of them may be the first.
# As root, or as a user who may use sudo: packages are installed and namespaces made as root.
# `make help` prints the comments behind the targets.

PREFIX ?= /usr/local
# PASST_TEST_QUICK=1 shortens the transfers of the system tests, PASST_TEST_LONG=1 adds minutes and gigabytes
# (tests/support/switches.py).
PYTEST_ARGS ?=
# Options that choose no tests.
PYTEST_OPTIONS ?=
# Processes that share the tests (tests/support/workers.py); with 1 they run in their order. Three keep two
# processors busy: tests of real programs wait for half of their time.
TEST_WORKERS ?= 3
BENCH_ARGS ?=
# bench/flood --help
FLOOD_ARGS ?=
# A parser of tests/fuzz/harness.py, dataplane (the real engine), or all in turn; and seconds for each, 0: no end.
FUZZ_TARGET ?= all
FUZZ_TIME ?= 60

PYTEST = .venv/bin/python -m pytest --workers $(TEST_WORKERS) $(PYTEST_OPTIONS)

.PHONY: build help demo test test-debug test-fast sanitize bench flood interop fuzz lint install sdist wheel deb \
	try-deb release clean

build: # build in place, into .venv
	@tools/setup build

help: # these lines
	@sed -n 's/^\([a-z-]*\): # /make \1\t/p' Makefile | expand -t 20

demo: # show the program at work between two namespaces
	@tools/setup demo
	@tools/as-root demo/run

test: # all tests; PYTEST_ARGS="tests/wire -k arp" for some
	@tools/setup test
	@$(if $(PYTEST_ARGS),:,tools/debug-build -q --workers $(TEST_WORKERS))
	@tools/as-root $(PYTEST) $(PYTEST_ARGS)

test-debug: # the data plane's tests in a build with assertions: a part of `make test`
	@tools/setup test
	@tools/debug-build -q --workers $(TEST_WORKERS) $(PYTEST_ARGS)

test-fast: # unit tests that need no root and no guest, under a minute
	@tools/setup test-fast
	@$(PYTEST) --ignore tests/system --ignore tests/guest \
		-m "not slow and not needs_root and not needs_userns" $(PYTEST_ARGS)

sanitize: # tests in a build with sanitizers of memory and arithmetic; PYTEST_ARGS as for `make test`
	@tools/setup test
	@tools/sanitize --workers $(TEST_WORKERS) $(PYTEST_OPTIONS) $(PYTEST_ARGS)

bench: # speed, memory and start-up beside other programs
	@tools/setup bench
	@tools/as-root env PYTHON=.venv/bin/python bench/run $(BENCH_ARGS)

flood: # what hostile guests and neighbours can do to others: FLOOD_ARGS="--only syn-silent,arp"
	@tools/setup bench
	@tools/as-root env PYTHON=.venv/bin/python bench/flood $(FLOOD_ARGS)

# In a Debian 13 of about 1 GB below .interop; and in a small Debian for each Python that one has.
interop: # real podman, buildah, rootlesskit, libvirt and promtool as clients; every Python
	@tools/setup interop
	@$(if $(PYTEST_ARGS),:,tools/as-root tools/python-trees)
	@tools/as-root .venv/bin/python -m pytest $(or $(PYTEST_ARGS),tests/interop)

fuzz: # parsers and engine, guided by coverage: FUZZ_TARGET=dhcp FUZZ_TIME=60
	@tools/setup fuzz
	@.venv/bin/python tests/fuzz/fuzz.py $(FUZZ_TARGET) $(FUZZ_TIME)

lint: # ruff, cython-lint, mypy
	@tools/setup lint
	.venv/bin/ruff check
	PATH=.venv/bin:$$PATH .venv/bin/cython-lint src tests
	.venv/bin/mypy

install: # into PREFIX, /usr/local
	@tools/install "$(PREFIX)"

sdist: # source archive in dist/, the same bytes each time
	@tools/setup dist
	.venv/bin/python setup.py -q sdist --dist-dir dist

wheel: # wheel in dist/, for this Python on every distribution that is not older
	@tools/wheel

deb: # Debian package in dist/, for this distribution
	@tools/deb

try-deb: deb # install, use, upgrade and purge that package in a fresh tree, as root
	@tools/as-root tools/try-deb

release: # check that this tree can be released; nothing is changed or tagged
	@tools/setup dist
	@.venv/bin/python tools/release.py

clean: # remove all that was built or downloaded
	[ ! -e .interop ] || tools/as-root rm -rf .interop
	# What root made in a user's clone, as by a program that was started through sudo, is the user's again.
	[ -z "$$(find . -xdev -path ./.git -prune -o -uid 0 -print -quit)" ] || tools/as-root true
	rm -rf .venv .setup build dist src/*.egg-info .demo .fuzz .guest .mypy_cache .pytest_cache .ruff_cache .hypothesis bench/bin
	find src tests bench tools -name __pycache__ -prune -exec rm -rf {} +
	find src tests bench -name '*.so' -delete
	find src tests -name '*.pyx' -exec sh -c 'rm -f "$${0%.pyx}.c"' {} \;
