# The simulator: core and base alone, no wire, no loop, no library but libcrypto.
SIM_OBJ := $(call OBJ,$(wildcard tests/sim/*.c))
SIM_SEEDS ?= 1-500

$(BUILD)/sim: $(SIM_OBJ) $(BUILD)/libcore.a $(BUILD)/libwire.a $(BUILD)/libbase.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $(SIM_OBJ) $(BUILD)/libcore.a $(BUILD)/libwire.a \
	  $(BUILD)/libbase.a $(LDLIBS)

sim: $(BUILD)/sim
	$(BUILD)/sim --seeds $(SIM_SEEDS)
	$(BUILD)/sim --bench

.PHONY: sim
