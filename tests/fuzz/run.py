"""Fuzzes one target, guided by coverage (atheris), or with random decisions where atheris is not installed.

    python -m fuzz.run TARGET INPUTS CORPUS [options of libFuzzer]

Run by ``make fuzz``. An input that breaks a promise is written to CORPUS/../crash-*, and shown; give its path as the
only further argument to see it again.
"""

import random
import sys
import tracemalloc
from pathlib import Path

SECONDS_PER_INPUT = 20
"""An input that takes longer is a finding; the slowest legitimate one takes milliseconds."""
LONGEST_BYTES = 600
TRACED = ("codec", "handshake", "nats_frames")
"""Their memory is measured for each input, which makes a task or an exception cost four times as much."""


def main(name, inputs, corpus, *options):
    try:
        import atheris
    except ImportError:
        atheris = None
    if atheris is not None:
        with atheris.instrument_imports(include=["callboard.actors", "callboard.transports"]):
            from . import targets
    else:
        from . import targets
    from .seeds import seeds

    targets.read_logs()
    if name in TRACED:
        tracemalloc.start()
    target = targets.TARGETS[name]
    place = Path(corpus) / name
    place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        target(seed)
        (place / f"seed-{number}").write_bytes(seed)
    if atheris is None:
        without_guide(target, int(inputs))
        targets.close()
        print(f"{name}: {int(inputs):,} random inputs, no finding (atheris is not installed: no coverage)")
        return
    arguments = [
        sys.argv[0], f"-runs={inputs}", f"-timeout={SECONDS_PER_INPUT}", f"-max_len={LONGEST_BYTES}",
        f"-artifact_prefix={corpus}/{name}-", "-rss_limit_mb=2048", "-print_final_stats=1", "-len_control=20",
        *(options or (str(place),)),
    ]  # fmt: skip
    atheris.Setup(arguments, target)
    atheris.Fuzz()


def without_guide(target, inputs):
    """Feed random decisions; what is wrong is raised, with its input."""
    dice = random.Random(inputs)
    for _ in range(inputs):
        data = dice.randbytes(dice.choice((8, 30, 90, 250, LONGEST_BYTES)))
        try:
            target(data)
        except BaseException as error:
            error.add_note(f"of the input {data.hex()}")
            raise


if __name__ == "__main__":
    main(*sys.argv[1:])
