# Each target does all the set-up that it needs (tools/setup), so any of them may be the first.
# As root, or as a user who may use sudo: packages are installed and namespaces made as root.

PREFIX ?= /usr/local
# PASST_TEST_QUICK=1 shortens the transfers of the system tests, PASST_TEST_LONG=1 adds minutes and gigabytes.
PYTEST_ARGS ?=
BENCH_ARGS ?=
# A parser of tests/fuzz/harness.py, or all in turn; and seconds for each, 0 for no end.
FUZZ_TARGET ?= all
FUZZ_TIME ?= 60

.PHONY: build demo test test-debug bench interop fuzz lint install clean

build:
	@tools/setup build

demo:
	@tools/setup demo
	@tools/as-root demo/run

test:
	@tools/setup test
	@tools/as-root .venv/bin/python -m pytest $(PYTEST_ARGS)
	@$(if $(PYTEST_ARGS),:,tools/debug-build -q)

# The data plane's tests in a build of their own, with assertions: a part of `make test`.
test-debug:
	@tools/setup test
	@tools/debug-build -q $(PYTEST_ARGS)

bench:
	@tools/setup bench
	@tools/as-root env PYTHON=.venv/bin/python bench/run $(BENCH_ARGS)

# Real podman, buildah, rootlesskit and libvirt, in a Debian 13 of about 1 GB below .interop.
interop:
	@tools/setup interop
	@tools/as-root .venv/bin/python -m pytest $(or $(PYTEST_ARGS),tests/interop)

fuzz:
	@tools/setup fuzz
	@.venv/bin/python tests/fuzz/fuzz.py $(FUZZ_TARGET) $(FUZZ_TIME)

lint:
	@tools/setup lint
	.venv/bin/ruff check
	PATH=.venv/bin:$$PATH .venv/bin/cython-lint src tests
	.venv/bin/mypy

install:
	@tools/install $(PREFIX)

clean:
	[ ! -e .interop ] || tools/as-root rm -rf .interop
	# What root made in a user's clone, as by a program that was started through sudo, is the user's again.
	[ -z "$$(find . -xdev -path ./.git -prune -o -uid 0 -print -quit)" ] || tools/as-root true
	rm -rf .venv .setup build dist src/*.egg-info .demo .fuzz .guest .mypy_cache .pytest_cache .ruff_cache .hypothesis bench/bin
	find src tests bench tools -name __pycache__ -prune -exec rm -rf {} +
	find src tests bench -name '*.so' -delete
	find src tests -name '*.pyx' -exec sh -c 'rm -f "$${0%.pyx}.c"' {} \;
