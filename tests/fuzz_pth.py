"""Fuzzing the .pth reader by hand: ``python tests/fuzz_pth.py --count 100000 --seed 1``.

Valid checkpoints (torch's own golden files and forged ones, zip and legacy) are damaged at random: bytes flipped,
spans cut, repeated or swapped, integers set to extreme values, pickles spliced with opcodes and whole attacks, inside
an archive that is then written anew with right CRCs, so that the damage reaches the interpreter. Each file is opened,
every tensor read, and the whole verified.

It holds that (1) nothing but a FormatError is raised, (2) no file but the one under test is opened, no process started,
no module imported and no code compiled, as an audit hook sees it, (3) Python never holds more than ``LIMIT`` bytes, and
the process never more than ``--rlimit`` of address space, (4) no file takes longer than ``SLOW`` seconds.
"""

from __future__ import annotations

import argparse
import collections
import io
import os
import random
import resource
import sys
import tempfile
import time
import tracemalloc
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ggmlpy.errors import FormatError  # noqa: E402
from llama_ref.checkpoint import LazyTensor, open_pth  # noqa: E402
from tests.llama_ref.attacks import forge, test_pth_pickle_attacks  # noqa: E402

LIMIT = 64 << 20  # bytes of Python objects; the seeds are smaller than 20 KB
SLOW = 2.0  # seconds
EXTREMES = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
    1 << 63,
    (1 << 64) - 1,
]
OPCODES = bytes(range(0x28, 0x7E)) + bytes(range(0x80, 0x99))
ALLOWED_EVENTS = {"open", "mmap.__new__", "object.__getattr__", "os.listdir", "os.scandir"}


def seeds() -> list[bytes]:
    """Valid files to start from."""
    folder = ROOT / "tests" / "data" / "merge"
    files = [path.read_bytes() for path in sorted((folder / "parser").glob("*.pth"))]
    files += [path.read_bytes() for path in sorted((folder / "malicious").glob("*.pth")) if path.stat().st_size < 5000]
    files += [forge.checkpoint(), forge.checkpoint(data=forge.Member("x/data/0", forge.DATA, method=8))]
    return files


def fragments() -> list[bytes]:
    """Pieces of pickles to splice in."""
    attacks = test_pth_pickle_attacks.CODE | test_pth_pickle_attacks.OUT_OF_BOUNDS
    pieces = [piece for piece, _ in attacks.values()]
    return [*pieces, forge.tensor(), forge.storage(), forge.HOOKS, b"(" * 60, b"]" * 5000, b"}q\x00", b"h\x00" * 50]


class Mutator:
    """Damages files by a seeded generator."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seeds = seeds()
        self.fragments = fragments()

    def file(self) -> bytes:
        """One damaged file."""
        data = self.random.choice(self.seeds)
        if data[:2] == b"PK" and self.random.random() < 0.5:
            try:
                return self.repacked(data)
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError):
                pass
        return self.damaged(data)

    def repacked(self, data: bytes) -> bytes:
        """The archive with a damaged record, written anew with right sizes and CRCs."""
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = [(info.filename, archive.read(info)) for info in archive.infolist()]
        index = 0 if self.random.random() < 0.85 else self.random.randrange(len(records))
        members = []
        for i, (name, content) in enumerate(records):
            if i == index:
                content = self.damaged(content)
            members.append(forge.Member(name, content, method=self.random.choice([0, 0, 0, 8])))
        if self.random.random() < 0.1:
            self.random.shuffle(members)
        return forge.archive(members)

    def damaged(self, data: bytes) -> bytes:
        for _ in range(self.random.choice([1, 1, 1, 2, 3, 8])):
            data = self.random.choice(self.MUTATIONS)(self, data)
        return data

    def place(self, data: bytes) -> int:
        return self.random.randrange(len(data) + 1)

    def flip(self, data: bytes) -> bytes:
        at = self.place(data)
        return data[:at] + bytes(b ^ 1 << self.random.randrange(8) for b in data[at : at + 1]) + data[at + 1 :]

    def overwrite(self, data: bytes) -> bytes:
        at = self.place(data)
        new = bytes(self.random.randrange(256) for _ in range(self.random.choice([1, 2, 4])))
        return data[:at] + new + data[at + len(new) :]

    def opcode(self, data: bytes) -> bytes:
        at = self.place(data)
        keep = self.random.randrange(2)
        return data[:at] + bytes([self.random.choice(OPCODES)]) + data[at + keep :]

    def extreme(self, data: bytes) -> bytes:
        at, size = self.place(data), self.random.choice([1, 2, 4, 8])
        value = self.random.choice(EXTREMES) & ((1 << 8 * size) - 1)
        return data[:at] + value.to_bytes(size, "little") + data[at + size :]

    def cut(self, data: bytes) -> bytes:
        a, b = sorted((self.place(data), self.place(data)))
        return data[: min(b, a + self.random.choice([1, 4, 40, 10**6]))] + data[b:]

    def truncate(self, data: bytes) -> bytes:
        return data[: self.place(data)]

    def repeat(self, data: bytes) -> bytes:
        a, b = sorted((self.place(data), self.place(data)))
        piece = data[a : min(b, a + 200)]
        return data[:b] + piece * self.random.choice([1, 2, 40]) + data[b:]

    def swap(self, data: bytes) -> bytes:
        a, b, c = sorted(self.place(data) for _ in range(3))
        return data[:a] + data[b:c] + data[a:b] + data[c:]

    def splice(self, data: bytes) -> bytes:
        at = self.place(data)
        return data[:at] + self.random.choice(self.fragments) + data[at + self.random.choice([0, 0, 1, 9]) :]

    def cross(self, data: bytes) -> bytes:
        other = self.random.choice(self.seeds)
        return data[: self.place(data)] + other[self.place(other) :]

    MUTATIONS = (flip, overwrite, opcode, extreme) * 2 + (cut, truncate, repeat, swap, splice, cross)


class Guard:
    """Notes every audit event that a reader of one file has no business with."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.active = False
        self.seen: collections.Counter[str] = collections.Counter()
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple) -> None:
        if not self.active:
            return
        if event not in ALLOWED_EVENTS or (event == "open" and arguments[0] != self.path):
            self.seen[f"{event} {str(arguments)[:80]}"] += 1


def read_everything(path: str) -> int:
    """Open, read each tensor and verify; the number of tensors."""
    with open_pth(path) as f:
        for tensor in f.values():
            consume(tensor)
        f.verify()
        return len(f.state_dict)


def consume(tensor: LazyTensor) -> None:
    tensor.numpy()
    for _ in tensor.chunks(limit=64):
        pass


def warm_up(path: str) -> None:
    """Do once whatever imports lazily, before the guard looks."""
    for data in seeds():
        Path(path).write_bytes(data)
        try:
            read_everything(path)
        except FormatError as error:
            str(error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rlimit", type=int, default=2 << 30, help="bytes of address space (0: no limit)")
    parser.add_argument("--keep", help="a folder for files that broke a rule")
    options = parser.parse_args()
    if options.rlimit:
        resource.setrlimit(resource.RLIMIT_AS, (options.rlimit, options.rlimit))
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "fuzz.pth")
    warm_up(path)
    guard = Guard(path)
    mutator = Mutator(options.seed)
    outcomes: collections.Counter[str] = collections.Counter()
    broken = 0
    peak, slowest, began = 0, 0.0, time.perf_counter()
    tracemalloc.start()
    for i in range(options.count):
        data = mutator.file()
        with open(path, "wb") as stream:
            stream.write(data)
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        events = guard.seen.total()
        start = time.perf_counter()
        guard.active = True
        try:
            read_everything(path)
            outcome = "loads"
        except FormatError as error:
            outcome = type(error).__name__
            str(error)
        except BaseException as error:
            outcome = f"BROKEN {type(error).__name__}: {str(error)[:100]}"
        guard.active = False
        taken, used = time.perf_counter() - start, tracemalloc.get_traced_memory()[1] - held
        peak, slowest = max(peak, used), max(slowest, taken)
        outcomes[outcome] += 1
        if outcome.startswith("BROKEN") or used > LIMIT or taken > SLOW or guard.seen.total() > events:
            broken += 1
            print(f"{i}: {outcome}, {used:,} bytes, {taken:.2f} s, {dict(guard.seen)}")
            if options.keep:
                Path(options.keep, f"{options.seed}-{i}.pth").write_bytes(data)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{options.count:,} files, seed {options.seed}: {broken} broke a rule; {time.perf_counter() - began:.0f} s")
    print(", ".join(f"{name} {n:,}" for name, n in outcomes.most_common()))
    print(f"peak of Python objects {peak:,} bytes, of the process {rss:,} KB; slowest file {slowest:.3f} s")
    print(f"events that a reader has no business with: {guard.seen.total()}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
