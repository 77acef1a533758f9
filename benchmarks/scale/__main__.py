"""`python -m benchmarks.scale`: fill a registry, and measure what its size costs."""

import argparse
import sys
from dataclasses import fields, replace

from benchmarks.failure import BenchmarkError
from benchmarks.scale.fill import fill
from benchmarks.scale.sizes import Scale


def main() -> int:
    """Fill a registry; 2 when that is not possible."""
    arguments = _parse()
    try:
        fill(arguments.database_url, _scale(arguments))
    except BenchmarkError as error:
        print(f"benchmarks.scale: {error}", file=sys.stderr)
        return 2
    return 0


def _scale(arguments: argparse.Namespace) -> Scale:
    chosen = {field.name: getattr(arguments, field.name) for field in fields(Scale)}
    return replace(
        Scale().divided(arguments.divide),
        **{name: value for name, value in chosen.items() if value is not None},
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    add = parser.add_argument
    add("--database-url", required=True, help="an empty database, or an empty registry's")
    add("--divide", type=int, default=1, metavar="N", help="everything so many times smaller")
    for field in fields(Scale):
        option = f"--{field.name.replace('_', '-')}"
        add(option, type=int, metavar="N", help=f"({field.default})")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
