"""What the runtime promises about actors, on every plane and within one process."""
