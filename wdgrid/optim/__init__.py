"""The paper's optimizers and schedules. Imports nothing, so that `wdgrid convert` answers without torch."""
