"""An engine without a model: blocks, batches and time as a real one has them. Pure; the time is given."""
