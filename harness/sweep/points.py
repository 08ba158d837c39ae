"""Running the points of a sweep: here over processes, or over a Ray cluster. What is done is not done again."""

from __future__ import annotations

import io
import socket
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from harness.errors import InputError, require
from harness.sim.job import Job
from harness.sim.simulate import simulate
from harness.sweep.grid import Point


def run_points(points: Sequence[Point], folder: Path, workers: int) -> Iterator[Point]:
    """Simulate each point into `folder`/NAME, in `workers` processes; yields points as they end."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_run, point.job, folder / point.name): point for point in points}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def run_points_on_ray(points: Sequence[Point], folder: Path, address: str) -> Iterator[Point]:
    """The same on the Ray cluster at `address` (`local` starts one here); runs are sent back, so that its machines
    need no common disk. They need this package, and a trace under the same path."""
    require("sweep", "ray")
    import ray

    _knock(address)
    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot reach a Ray cluster at {address!r}: {error}") from error
    try:
        packed = ray.remote(num_cpus=1)(_run_packed)
        running = {packed.remote(point.job): point for point in points}
        while running:
            (ended, *_), _ = ray.wait(list(running))
            point = running.pop(ended)
            _unpack(ray.get(ended), folder / point.name)
            yield point
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """InputError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot reach a Ray cluster at {address!r}: {error}") from error


def _run(job: Job, out: Path) -> None:
    from reports import write_report

    simulate(job, out, finish=write_report)


def _run_packed(job: Job) -> bytes:
    """A run directory as a tar archive."""
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        _run(job, Path(folder) / "run")
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            archive.add(Path(folder) / "run", arcname=".")
    return buffer.getvalue()


def _unpack(archive: bytes, out: Path) -> None:
    """The run directory of `_run_packed` at `out`; it gets its name when it is whole."""
    part = out.with_name(f".{out.name}.partial")
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(part, filter="data")
    part.replace(out)
