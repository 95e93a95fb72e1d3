"""Measures edgetext bundles on the machine at hand; needs nothing but ``edgetext_runtime``.

    >>> from edgetext_bench import Settings, bench, markdown_table
    >>> record = bench(["model-int8.etx", "model-fp32.etx"], Settings(threads=(1, 2)))
    >>> markdown_table(record)

Importing the package is cheap; numpy loads with the first name used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetext_bench.measure import bench
    from edgetext_bench.plots import plot_latency
    from edgetext_bench.record import Record, Settings
    from edgetext_bench.report import markdown_table

__all__ = ["Record", "Settings", "bench", "markdown_table", "plot_latency"]

_HOMES = {
    "Record": "record",
    "Settings": "record",
    "bench": "measure",
    "markdown_table": "report",
    "plot_latency": "plots",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
