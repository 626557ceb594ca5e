# vine-env. `make` builds, `make check` tests, `make demo` shows it, `make install`
# installs (DESTDIR, prefix, sysconfdir). README.md says the rest.
#
# Every .c file of a folder belongs to the library or program of that folder; a unit test
# is one file tests/unit/test_*.c. Adding a file needs no change here.

VERSION    := 0.1.0
BUILD      ?= build
prefix     ?= /usr
sysconfdir ?= /etc
sbindir    ?= $(prefix)/sbin
bindir     ?= $(prefix)/bin
libexecdir ?= $(prefix)/libexec/vine-env
plugindir  ?= $(prefix)/lib/vine-env
unitdir    ?= $(prefix)/lib/systemd/system
mandir     ?= $(prefix)/share/man
docdir     ?= $(prefix)/share/doc/vine-env

PKG_CONFIG ?= pkg-config
PKGS       := jansson munge libcrypto libuv libarchive libzstd
WARN       := -Wall -Wextra -Wshadow -Wmissing-prototypes -Wstrict-prototypes -Wvla \
              -Wformat=2 -Wpointer-arith -Wundef -Wno-unused-parameter -Werror
# A product build must start on a bare machine, where contrib/bootstrap has not run yet:
# pkg-config is asked only when something is compiled.
PKG_CFLAGS  = $(shell $(PKG_CONFIG) --cflags $(PKGS))
CPPFLAGS   += -D_GNU_SOURCE -D_FORTIFY_SOURCE=2 -DVINE_VERSION='"$(VERSION)"' \
              -DVINE_LIBEXECDIR='"$(libexecdir)"' -DVINE_SYSCONFDIR='"$(sysconfdir)"' \
              -Iinclude -I.
CFLAGS     ?= -O2 -g
ALL_CFLAGS  = -std=gnu11 $(CFLAGS) $(WARN) -fPIC -fstack-protector-strong
ifdef DEV                      # make DEV=1 BUILD=build-dev unit: with ASan and UBSan
CPPFLAGS   := $(filter-out -D_FORTIFY_SOURCE=2,$(CPPFLAGS))
CFLAGS     := -O1 -g -fno-omit-frame-pointer
SANITIZE   := -fsanitize=address,undefined -fno-sanitize-recover=all
ALL_CFLAGS += $(SANITIZE)
endif

LIBS := base wire core edge image node
# All of a folder but its main.c, so that unit tests can link any part.
lib_sources = $(filter-out %/main.c,$(wildcard daemon/$(1)/*.c))
OBJ  = $(patsubst %.c,$(BUILD)/%.o,$(1))
ARCHIVES := $(foreach l,$(LIBS),$(BUILD)/lib$(l).a)
# Order: users before what they use.
LINK_LIBS := $(foreach l,node image edge core wire base,$(BUILD)/lib$(l).a)
LDLIBS   = $(shell $(PKG_CONFIG) --libs $(PKGS)) -lpthread

PROGRAMS := $(BUILD)/vined $(BUILD)/vine-managerd $(BUILD)/vine-env $(BUILD)/vine-source \
            $(BUILD)/vine-lazy $(BUILD)/vine-squash $(BUILD)/vine-remote
PLUGIN   := $(BUILD)/vine_env.so

UNIT_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/test_*.c))

all: $(PROGRAMS) $(PLUGIN) $(BUILD)/unpack_pixi.py

# Installs what is missing; everything there: one dpkg-query. Packagers: BOOTSTRAP=:
BOOTSTRAP ?= contrib/bootstrap
BOOTSTRAPS := bootstrap-build bootstrap-check bootstrap-demo bootstrap-bench \
              bootstrap-deb
$(BOOTSTRAPS):
	@$(BOOTSTRAP) --for $(@:bootstrap-%=%)

$(BUILD)/%.o: %.c Makefile | bootstrap-build
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

define library
$(BUILD)/lib$(1).a: $(call OBJ,$(call lib_sources,$(1)))
	@mkdir -p $$(@D)
	rm -f $$@ && $$(AR) rcs $$@ $$^
endef
$(foreach l,$(LIBS),$(eval $(call library,$(l))))

link = $(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LINK_LIBS) $(LDLIBS)

$(BUILD)/vined: $(BUILD)/daemon/node/main.o $(ARCHIVES)
	$(link)
$(BUILD)/vine-managerd: $(call OBJ,$(wildcard daemon/manager/*.c)) $(ARCHIVES)
	$(link)
$(BUILD)/vine-env: LDLIBS += -lm
$(BUILD)/vine-env: $(call OBJ,$(wildcard daemon/cli/*.c)) $(ARCHIVES)
	$(link)
$(BUILD)/vine-source: $(call OBJ,$(wildcard daemon/source/*.c)) $(ARCHIVES)
	$(link)

# Alone with libssh2 and libcurl, and a program of its own: it speaks with servers.
$(BUILD)/daemon/remote/%.o: PKGS += libssh2 libcurl
$(BUILD)/vine-remote: PKGS += libssh2 libcurl
$(BUILD)/vine-remote: $(call OBJ,$(wildcard daemon/remote/*.c)) \
                      $(call OBJ,$(call lib_sources,source)) $(ARCHIVES)
	$(link)

# Alone with libfuse: it opens nothing and speaks to nobody but vined and the kernel.
$(BUILD)/daemon/lazy/%.o: PKGS := fuse3
$(BUILD)/vine-lazy: $(call OBJ,$(wildcard daemon/lazy/*.c))
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(shell $(PKG_CONFIG) --libs fuse3)

# With libsquashfs and libarchive: it runs as a user who has nothing.
$(BUILD)/daemon/squash/%.o: PKGS := libarchive libsquashfs1
$(BUILD)/vine-squash: $(call OBJ,$(wildcard daemon/squash/*.c)) $(BUILD)/libbase.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ \
	  $(shell $(PKG_CONFIG) --libs libarchive libsquashfs1 libcrypto) -lpthread

# The plugin lives in slurmstepd and srun: never sanitized, links jansson only, and shows
# nothing but the symbols of spank/export.map.
PLUGIN_SOURCES := $(wildcard spank/*.c) daemon/wire/client.c daemon/base/err.c \
                  daemon/base/spec.c daemon/base/url.c daemon/base/conf.c daemon/base/escape.c \
                  daemon/base/text_file.c
$(PLUGIN): $(PLUGIN_SOURCES) spank/export.map Makefile \
           $(wildcard include/vine/*.h spank/*.h) | bootstrap-build
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(filter-out $(SANITIZE),$(ALL_CFLAGS)) -shared \
	  -Wl,--version-script=spank/export.map -Wl,-z,now -o $@ $(PLUGIN_SOURCES) \
	  $(shell $(PKG_CONFIG) --libs jansson)

# Part of the Python package, and started by vine-env by itself.
$(BUILD)/%.py: python/vine_env/%.py
	@mkdir -p $(@D)
	cp $< $@

$(BUILD)/unit/%: $(BUILD)/tests/unit/%.o $(ARCHIVES)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $(LINK_LIBS) $(LDLIBS) -lcmocka

unit-tests: $(UNIT_TESTS)
unit: $(UNIT_TESTS)
	@failed=0; for t in $(UNIT_TESTS); do echo "== $$t"; $$t || failed=1; done; \
	exit $$failed

install: all
	contrib/install.sh "$(DESTDIR)" $(BUILD) $(sbindir) $(bindir) $(libexecdir) \
	  $(plugindir) $(unitdir) $(mandir) $(docdir) $(sysconfdir)

# Debian packages in build/deb.
deb: bootstrap-deb
	contrib/packaging/make-deb

# The parts that bring their own targets: sim, fuzz.
SIM_MK  := $(wildcard tests/sim/sim.mk)
FUZZ_MK := $(wildcard tests/fuzz/fuzz.mk)
-include $(SIM_MK) $(FUZZ_MK)

VENV     := build/venv/bin
JOBS     := $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc))
SUBMAKE   = $(MAKE) --no-print-directory $(JOBS)
PYTESTS  := $(wildcard tests/lint tests/demo tests/bench tests/image \
              tests/packaging tests/python tests/cluster)

lint: bootstrap-check
	$(VENV)/python contrib/lint.py

# In order of patience: what fails first costs least.
check: bootstrap-check
	$(SUBMAKE) all
	$(SUBMAKE) DEV=1 BUILD=build-dev unit-tests
	$(SUBMAKE) DEV=1 BUILD=build-dev unit
	$(SUBMAKE) CC=clang BUILD=build-clang all unit-tests
	$(if $(SIM_MK),$(SUBMAKE) sim-short)
	$(if $(FUZZ_MK),$(SUBMAKE) fuzz FUZZ_SECONDS=5)
	@# A run a folder: each has a conftest.py of its own.
	@failed=0; for folder in $(PYTESTS); do \
	  echo "== pytest $$folder"; \
	  timeout --foreground -s INT 1800 $(VENV)/python -m pytest -ra --durations=5 \
	    $$folder || failed=1; \
	done; exit $$failed

demo: BEGUN := $(shell date +%s)
demo: bootstrap-demo
	@echo "demo: building vine-env"
	@$(SUBMAKE) -s all
	$(VENV)/python demo/run.py --begun $(BEGUN)

$(BUILD)/thin: $(BUILD)/tests/bench/thin.o $(ARCHIVES)
	$(link)
bench bench-idle: $(BUILD)/thin
bench bench-crowd: $(BUILD)/crowd

# Thousands of nodes for one manager, see tests/bench/crowd.c.
$(BUILD)/crowd: $(BUILD)/tests/bench/crowd.o $(ARCHIVES)
	$(link)

# All of tests/bench, or one of it, say `make bench-dataplane`. Exit status: a bound is
# missed.
bench: bootstrap-bench
	$(SUBMAKE) -s all $(BUILD)/sim
	$(VENV)/python tests/bench/run.py
bench-%: bootstrap-bench
	$(SUBMAKE) -s all $(BUILD)/sim
	$(VENV)/python tests/bench/$*.py

clean:
	rm -rf $(BUILD) build-dev build-clang

.PHONY: all unit unit-tests install deb clean lint check demo bench $(BOOTSTRAPS)
.SECONDARY:
-include $(shell find $(BUILD)/daemon $(BUILD)/tests -name '*.d' 2>/dev/null)
