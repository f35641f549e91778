"""The protocol of `cargo bench -p inference` (crates/inference/benches/encoder/peer.rs), for what embeds batches of ids."""

import sys
import time

import numpy


def serve(name, embed):
    """Says the name and then, for each batch, how many seconds so many runs of `embed` took: from ids to lists of numbers."""
    print(name, flush=True)
    for line in sys.stdin:
        count, texts = line.split()
        ids = numpy.array([text.split(",") for text in texts.split(";")], dtype=numpy.int32)
        begun = time.perf_counter()
        for _ in range(int(count)):
            embed(ids).tolist()
        print(time.perf_counter() - begun, flush=True)
