# The simulator: core and base alone, no wire, no loop, no library but libcrypto.
comma := ,
SIM_OBJ := $(call OBJ,$(wildcard tests/sim/*.c))
SIM_WRAP := $(foreach f,malloc calloc realloc strdup free,-Wl$(comma)--wrap=$(f))
SIM_SEEDS ?= 1-10000

$(BUILD)/sim: $(SIM_OBJ) $(BUILD)/libcore.a $(BUILD)/libwire.a $(BUILD)/libbase.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) $(SIM_WRAP) -o $@ $(SIM_OBJ) $(BUILD)/libcore.a $(BUILD)/libwire.a \
	  $(BUILD)/libbase.a $(LDLIBS)

# All of it, some two minutes: thousands of seeds beside the benchmarks with their bounds.
sim: $(BUILD)/sim
	$(BUILD)/sim --bench & bench=$$!; \
	$(BUILD)/sim --seeds $(SIM_SEEDS); seeds=$$?; \
	wait $$bench && exit $$seeds

# For `make check`.
sim-short: $(BUILD)/sim
	$(BUILD)/sim --seeds 1-500
	$(BUILD)/sim --bench --nodes 63

.PHONY: sim sim-short
