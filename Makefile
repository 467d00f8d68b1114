# For people: `make help`. The build itself is CMake's (CMakeLists.txt, CMakePresets.json).
BUILD ?= build
FUZZ_SECONDS ?= 300
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
GENERATOR := $(shell command -v ninja >/dev/null 2>&1 && echo -G Ninja)
# A configured folder keeps its generator.
configure = test -f $(1)/CMakeCache.txt && cmake $(1) $(2) >/dev/null || cmake -S . -B $(1) $(GENERATOR) $(2) >/dev/null
build = cmake --build $(1) -j $(JOBS)

.PHONY: all setup demo test check check-long asan fuzz clean help

all:
	@$(call configure,$(BUILD),-DCMAKE_BUILD_TYPE=Release)
	@$(call build,$(BUILD))

setup:
	@tools/setup

demo: setup
	@$(MAKE) --no-print-directory all
	@tools/demo.sh $(BUILD)

test: setup
	@$(MAKE) --no-print-directory all
	@tools/run_tests $(BUILD)

check: all
	@tools/check_layers
	@tools/check_symbols $(BUILD)
	@tools/check_headers
	@tools/check_format
	@$(BUILD)/gen_errors | diff -u docs/errors.md - || \
		{ echo "docs/errors.md is old: $(BUILD)/gen_errors >docs/errors.md"; exit 1; }
	@echo "check: all well"

check-long: check asan
	@BIRDIE_LONG=1 TEST_TIMEOUT=3600 tools/run_tests $(BUILD)

asan:
	@$(call configure,build-asan,-DCMAKE_BUILD_TYPE=Debug -DBIRDIE_SANITIZE=address$(,)undefined)
	@$(call build,build-asan)
	@TEST_TIMEOUT=1200 tools/run_tests build-asan
, := ,

fuzz:
	@FUZZ_SECONDS=$(FUZZ_SECONDS) tools/run_fuzz build-fuzz

clean:
	rm -rf build build-asan build-dev build-fuzz build-verify

help:
	@echo "make             build the program: $(BUILD)/birdie"
	@echo "make demo        from a text file to a verified artifact, in minutes"
	@echo "make test        install what is missing (Debian 12), build, run all tests"
	@echo "make check       layers, exported names, headers, format, generated documents"
	@echo "make check-long  check, tests under sanitizers, and the long tests"
	@echo "make asan        tests under the address and undefined-behaviour sanitizers"
	@echo "make fuzz        libFuzzer on every target, FUZZ_SECONDS=$(FUZZ_SECONDS) each (needs clang)"
	@echo "make setup       only install what is missing"
	@echo "make clean       remove the build folders"
