"""How fast frames of a generation are written and read, beside what zstd alone can do.

    python bench/frames.py [--gib 2] [--threads 2] [--directory /tmp]

Writes to a local store in a temporary directory: encode in threads, add in one, upload in a pool;
then reads all of it in threads, each a stretch of frames at a time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pages import PAGE, heap_pages
from pgkeep.codec.compress import compress, decompress
from pgkeep.parallel import Pool, ordered_map
from pgkeep.repo.generation import GenerationSummary, GenerationWriter
from pgkeep.repo.generationreader import GenerationReader
from pgkeep.repo.mapwriter import MapWriter
from pgkeep.repo.repository import Repository, create
from pgkeep.store.local import LocalStore

FRAME = 1 << 20
CLUSTER = "bench"
OWNER = "20261123T080000Z-abcdef"
STRETCH = 64
_ROUNDS = 32


def timed(what: str, amount: int, work: Callable[[], object]) -> None:
    """Print what it took by the clock, and by a processor, which other work does not disturb."""
    start, used = time.perf_counter(), time.process_time()
    work()
    seconds, busy = time.perf_counter() - start, time.process_time() - used
    print(
        f"{what:<36}{amount / seconds / 1e9:6.2f} GB/s ({seconds:.2f} s)"
        f"{amount / busy / 1e9:8.2f} GB/s per core ({busy:.2f} s)"
    )


def write(repo: Repository, frames: list[bytes], count: int, threads: int) -> GenerationSummary:
    with Pool(threads, name="uploads") as uploads:
        maps = MapWriter(repo, CLUSTER, OWNER, uploads=uploads)
        prints = maps.beside()
        writer = GenerationWriter(
            repo,
            CLUSTER,
            OWNER,
            2,
            block_size=PAGE,
            maps=maps,
            prints=prints,
            uploads=uploads,
        )
        raw = (frames[number % len(frames)] for number in range(count))
        for encoded in ordered_map(writer.encode, raw, workers=threads):
            writer.add(encoded)
        summary = writer.close()
        maps.close()
        prints.close()
    return summary


def read(repo: Repository, summary: GenerationSummary, threads: int) -> int:
    reader = GenerationReader(repo, CLUSTER, summary.ref.refs)

    def stretch(first: int) -> int:
        wanted = range(first, min(first + STRETCH, summary.frames))
        return sum(len(raw) for _, raw in reader.read(wanted))

    with ThreadPoolExecutor(threads) as executor:
        return sum(executor.map(stretch, range(0, summary.frames, STRETCH)))


def ceiling(frames: list[bytes], threads: int) -> None:
    """What zstd alone does in as many threads: nothing here can be quicker."""
    packed = [compress(raw) for raw in frames]
    amount = _ROUNDS * sum(map(len, frames))

    def each(work: Callable[[bytes], bytes], items: list[bytes]) -> int:
        with ThreadPoolExecutor(threads) as executor:
            return sum(executor.map(lambda item: len(work(item)), items * _ROUNDS))

    timed("zstd level 1 alone", amount, lambda: each(compress, frames))
    timed(
        "zstd decompression alone",
        amount,
        lambda: each(lambda stored: decompress(stored, FRAME), packed),
    )
    print(f"compresses {sum(map(len, frames)) / sum(map(len, packed)):.2f} : 1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    pages = heap_pages(32 * FRAME // PAGE)
    frames = [pages[at : at + FRAME] for at in range(0, len(pages), FRAME)]
    ceiling(frames, options.threads)
    count = int(options.gib * 1024)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        repo = create(
            LocalStore(Path(directory)), host_name="bench", keep=lambda key_file: None
        ).repository
        summaries: list[GenerationSummary] = []
        timed(
            "write: encode, add, upload",
            count * FRAME,
            lambda: summaries.append(write(repo, frames, count, options.threads)),
        )
        timed(
            "read: get, open, decompress, verify",
            count * FRAME,
            lambda: read(repo, summaries[0], options.threads),
        )


if __name__ == "__main__":
    main()
