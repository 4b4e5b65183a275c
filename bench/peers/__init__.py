"""One driver per peer, run by the interpreter of that peer: `python -m PACKAGE.ray_peer --transport tcp ask_64 1.0`.

A driver imports nothing of callboard but `..measuring` and `..payloads`, which import nothing of it either; see
`callboard.bench.drivers` for who starts it, and how the peer's interpreter finds these files. It starts its
server in a process of its own, measures one thing for about that many seconds, and prints one JSON object a line:
``{"case", "value", "unit"}``, or ``{"case", "skipped"}`` with the reason.
"""
