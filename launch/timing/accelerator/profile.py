"""A trace of a few rounds, and where their time goes: ``launch.bench --profile=DIR``.

JAX's profiler writes the trace: ``plugins/profile/*/*.xplane.pb`` for TensorBoard and XProf, and
``perfetto_trace.json.gz`` for Perfetto (ui.perfetto.dev). Three rounds are traced, of which the
first is waited for before the second is called. The ten longest steps are the operations of the
device by the sum of their durations. On CPU these are the compiler's thunks in its own threads.
"""

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

ROUNDS = 3
LONGEST = 10
# Names of events that are no operations: bookkeeping, and what contains the operations.
FRAMES = ("$", "end: ", "ThreadpoolListener", "ThunkExecutor", "TfrtCpu", "PjRt", "PjitFunction")
FRAMES += ("while", "call", "cond")
PYTHON = "$"  # begins the name of a frame
WAITS = ("await", "waitforcompletion", "rendezvous")
COPIES = ("memcpyh2d", "memcpyd2h", "transferto", "transferfrom", "bufferfromhost", "copytohost")
COMPILES = ("backend_compile", "xlacompile", "compileandload")


class Event(NamedTuple):
    """One event of a trace."""

    plane: str
    line: str
    name: str
    seconds: float


def record(run: Any, folder: pathlib.Path) -> pathlib.Path:
    """Traces ``ROUNDS`` calls of ``run``, each waited for, and returns the trace's file.

    Raises:
      ValueError: the profiler wrote no trace.
    """
    import jax

    run()  # compiled and warm
    with jax.profiler.trace(str(folder), create_perfetto_trace=True):
        for number in range(ROUNDS):
            with jax.profiler.StepTraceAnnotation("round", step_num=number):
                run()
    found = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ValueError(f"JAX's profiler has written no trace into {folder}")
    return found[-1]


def events(path: pathlib.Path) -> Iterator[Event]:
    """The events of a trace."""
    from jax.profiler import ProfileData

    for plane in ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                yield Event(plane.name, line.name, event.name, event.duration_ns / 1e9)


def on_device(event: Event) -> bool:
    """Whether an event is an operation of a device, or of the CPU's own threads.

    >>> on_device(Event("/device:GPU:0", "Stream #13(Compute)", "gemm_fusion", 1e-3))
    True
    >>> on_device(Event("/device:GPU:0", "XLA Modules", "jit_round", 1.0))
    False
    >>> on_device(Event("/host:CPU", "python", "$loop.py:3 rounds", 1.0))
    False
    """
    if event.name.startswith(FRAMES):
        return False
    if event.plane.startswith("/device:"):
        return event.line.startswith("Stream") or event.line == "XLA Ops"
    return event.line.startswith(("tf_XLA", "xla", "XLA"))


def longest(found: Iterable[Event]) -> list[tuple[str, int, float]]:
    """``(name, times, seconds)`` of the operations with the largest sums, the largest first.

    >>> one = lambda name, seconds: Event("/device:GPU:0", "Stream #1", name, seconds)
    >>> longest([one("gemm", 2.0), one("copy", 1.5), one("gemm", 1.0)])
    [('gemm', 2, 3.0), ('copy', 1, 1.5)]
    """
    sums: dict[str, list[float]] = {}
    for event in found:
        if on_device(event) and "::" not in event.name:  # the thread pool's own, such as its waits
            sums.setdefault(event.name, []).append(event.seconds)
    totals = [(name, len(each), sum(each)) for name, each in sums.items()]
    return sorted(totals, key=lambda row: -row[2])[:LONGEST]


def around(found: Iterable[Event]) -> dict[str, tuple[int, float]]:
    """How often and how long something waited, data crossed between host and device, and programs
    were compiled: events and seconds.

    >>> found = [Event("/host:CPU", "python", "CommonPjRtBuffer::Await", 2.0)]
    >>> found += [Event("/device:GPU:0", "Stream #2", "MemcpyH2D", 0.5)] * 2
    >>> around(found)
    {'waits': (1, 2.0), 'transfers': (2, 1.0), 'compilations': (0, 0.0)}
    """
    kinds: Mapping[str, tuple[str, ...]] = dict(
        waits=WAITS, transfers=COPIES, compilations=COMPILES
    )
    totals = dict.fromkeys(kinds, (0, 0.0))
    for event in found:
        for kind, words in kinds.items():
            name = "" if event.name.startswith(PYTHON) else event.name.lower()
            if any(word in name for word in words):
                count, seconds = totals[kind]
                totals[kind] = (count + 1, seconds + event.seconds)
    return totals


def markdown(found: list[Event]) -> str:
    """The longest operations, and the time round them, for ``ROUNDS`` rounds."""
    from jfu import tables

    top = longest(found)
    every = sum(event.seconds for event in found if on_device(event)) or 1.0
    lines = [["operation", "times", "ms", "share"]]
    for name, times, seconds in top:
        lines.append([name[:80], f"{times:,}", f"{1e3 * seconds:.3f}", f"{seconds / every:.1%}"])
    words = [
        f"{kind}: {count} events, {1e3 * seconds:.3f} ms"
        for kind, (count, seconds) in around(found).items()
    ]
    return f"{tables.aligned(lines)}\nOf {ROUNDS} rounds. {'; '.join(words)}.\n"
