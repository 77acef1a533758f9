"""The one exception of the benchmarks."""


class BenchmarkError(Exception):
    """A measurement could not be made, or would have measured errors."""
