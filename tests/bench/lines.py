"""Mixed log lines for the benches, the same bytes on every machine and at every time.

In: the 32,000 real lines of `$MILLRACE_SHARED/data/loghub-2k.tsv.gz` and a number of bytes. Out: one file per system in a
folder, and what is in them. As the README of the data says: runs of 500 lines of one system, each number of three or more
digits replaced by random digits half of the time, an RFC 3339 time in front. Time goes on by one millisecond a line from
2025-01-01, over all files together. Every 100,000th line ends with the word `quokka`, which no system writes.
"""

import gzip
import itertools
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

RUN = 500
RARE = "quokka"
RARE_EVERY = 100_000
START_S = 1_735_689_600  # 2025-01-01T00:00:00Z
NUMBER = re.compile(r"([0-9]{3,})")


@dataclass
class Made:
    """What was written."""

    files: dict[str, Path] = field(default_factory=dict)  # by system
    lines_of: dict[str, int] = field(default_factory=dict)
    lines: int = 0
    bytes: int = 0  # with line ends
    rare: int = 0

    @property
    def end_s(self) -> int:
        """The first whole second after the last line."""
        return START_S + self.lines // 1000 + 1


def read(source: Path) -> dict[str, list[list[str]]]:
    """Lines by system; each cut into text and long numbers, in turn."""
    systems: dict[str, list[list[str]]] = {}
    with gzip.open(source, "rt", encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            system, _, text = line.rstrip("\r\n").partition("\t")
            systems.setdefault(system, []).append(NUMBER.split(text))
    return systems


def make(source: Path, folder: Path, size: int, seed: int = 1) -> Made:
    """Writes at least `size` bytes, to the end of a run."""
    systems = read(source)
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    made = Made(
        files={system: folder / f"{system.lower()}.log" for system in systems}, lines_of=dict.fromkeys(systems, 0)
    )
    names = list(systems)
    whole = {system: itertools.cycle(lines) for system, lines in systems.items()}
    handles = {system: open(path, "wb", buffering=1 << 20) for system, path in made.files.items()}
    try:
        while made.bytes < size:
            system = rng.choice(names)
            out = []
            for parts in itertools.islice(whole[system], RUN):
                second, milli = divmod(made.lines, 1000)
                if milli == 0 or not out:
                    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(START_S + second))
                if len(parts) > 1:
                    parts = parts.copy()
                    for i in range(1, len(parts), 2):
                        if rng.random() < 0.5:
                            digits = len(parts[i])
                            parts[i] = str(int(rng.random() * 10**digits)).zfill(digits)[:digits]
                made.lines += 1
                rare = ""
                if made.lines % RARE_EVERY == RARE_EVERY // 2:
                    rare = f" {RARE}"
                    made.rare += 1
                out.append(f"{stamp}.{milli:03d}Z {''.join(parts)}{rare}\n")
            made.lines_of[system] += RUN
            made.bytes += handles[system].write("".join(out).encode())
    finally:
        for handle in handles.values():
            handle.close()
    return made
