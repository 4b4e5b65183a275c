"""The conformance suite of event planes: what `docs/events.md` promises, held by every plane."""
