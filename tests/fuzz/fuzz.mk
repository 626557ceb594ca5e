# Fuzz targets: each tests/fuzz/fuzz_*.c is one, linked with all libraries, built by
# clang with libFuzzer and ASan. What a target found before lies in tests/fuzz/corpus/NAME
# and is always tried first; `make fuzz FUZZ_SECONDS=600` digs deeper.
FUZZ_SECONDS ?= 30
FUZZ_CC      ?= clang
FUZZ_NAMES   := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_CFLAGS   = -std=gnu11 -O1 -g $(WARN) -fno-omit-frame-pointer \
                -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
FUZZ_OBJ      = $(patsubst %.c,$(BUILD)/fuzz/%.o,$(1))
FUZZ_LIB     := $(call FUZZ_OBJ,$(foreach l,$(LIBS),$(call lib_sources,$(l))))

$(BUILD)/fuzz/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(FUZZ_CC) $(filter-out -D_FORTIFY_SOURCE=2,$(CPPFLAGS)) $(PKG_CFLAGS) \
	  $(FUZZ_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/fuzz/libfuzzed.a: $(FUZZ_LIB)
	rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/fuzz/fuzz_%: $(BUILD)/fuzz/tests/fuzz/fuzz_%.o $(BUILD)/fuzz/libfuzzed.a
	$(FUZZ_CC) -fsanitize=fuzzer,address,undefined $(LDFLAGS) -o $@ $^ $(LDLIBS)

fuzz: $(addprefix $(BUILD)/fuzz/,$(FUZZ_NAMES))
	@for t in $(FUZZ_NAMES); do \
	  echo "== $$t, $(FUZZ_SECONDS) s"; \
	  mkdir -p $(BUILD)/fuzz/corpus/$$t; \
	  $(BUILD)/fuzz/$$t -max_total_time=$(FUZZ_SECONDS) -print_final_stats=0 -verbosity=0 \
	    -artifact_prefix=$(BUILD)/fuzz/$$t- $(BUILD)/fuzz/corpus/$$t \
	    $$(ls -d tests/fuzz/corpus/$$t 2>/dev/null) || exit 1; \
	done

.PHONY: fuzz
-include $(shell find $(BUILD)/fuzz -name '*.d' 2>/dev/null)
