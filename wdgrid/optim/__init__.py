"""The paper's optimizers and schedules."""
