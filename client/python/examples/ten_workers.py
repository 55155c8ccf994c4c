"""Ten workers of one server share one model. Each reads all of it; together they have it once.

    python ten_workers.py Tongyi-MAI/Z-Image-Turbo transformer
"""

import multiprocessing
import sys

import weightsd

WORKERS = 10


def work(spec: str, component: str) -> tuple[int, int]:
    """Bytes that the worker has read, and bytes of them in memory that is its own."""
    with weightsd.load(spec, component, progress=False) as weights:
        read = sum(bool(tensor.memoryview().tobytes()) * tensor.nbytes for tensor in weights.values())
        return read, weights.report().copied_bytes


if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        done = pool.starmap(work, [tuple(sys.argv[1:3])] * WORKERS)
    print(f"{WORKERS} workers read {done[0][0]} bytes each, and copied {sum(own for _, own in done)}")
