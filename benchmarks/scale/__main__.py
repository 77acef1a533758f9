"""`python -m benchmarks.scale`: fill a registry, or measure what growing costs."""

import argparse
import signal
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path

from benchmarks.failure import BenchmarkError
from benchmarks.scale.fill import fill
from benchmarks.scale.growth import DIVISORS, run
from benchmarks.scale.picture import draw
from benchmarks.scale.sizes import Scale


def main() -> int:
    """Do what was asked for; 2 when that is not possible."""
    arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if arguments.measure:
            _measure(arguments)
        else:
            fill(arguments.database_url, _scale(arguments))
    except BenchmarkError as error:
        print(f"benchmarks.scale: {error}", file=sys.stderr)
        return 2
    return 0


def _measure(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="dtr-scale-", dir=arguments.work_dir) as folder:
        growth = run(
            Path(folder),
            arguments.divisors,
            seconds=arguments.seconds,
            dead_blobs=arguments.dead_blobs,
            per_second=arguments.per_second,
        )
    print("\n" + growth.markdown())
    output: Path | None = arguments.output
    if output is not None:
        output.with_name(f"{output.name}.md").write_text(growth.markdown(), encoding="utf-8")
        output.with_name(f"{output.name}.json").write_text(growth.as_json(), encoding="utf-8")
        output.with_name(f"{output.name}.svg").write_text(draw(growth), encoding="utf-8")


def _scale(arguments: argparse.Namespace) -> Scale:
    chosen = {field.name: getattr(arguments, field.name) for field in fields(Scale)}
    return replace(
        Scale().divided(arguments.divide),
        **{name: value for name, value in chosen.items() if value is not None},
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    to_do = parser.add_mutually_exclusive_group(required=True)
    to_do.add_argument("--database-url", help="fill this: an empty database, or registry")
    to_do.add_argument(
        "--measure", action="store_true", help="measure growing registries on a PostgreSQL of ours"
    )
    filling = parser.add_argument_group("to fill")
    add = filling.add_argument
    add("--divide", type=int, default=1, metavar="N", help="everything so many times smaller (1)")
    for field in fields(Scale):
        option = f"--{field.name.replace('_', '-')}"
        add(option, type=int, metavar="N", help=f"({field.default})")
    add = parser.add_argument_group("to measure").add_argument
    add("--divisors", type=int, nargs="+", default=DIVISORS, metavar="N", help="sizes to fill")
    add("--seconds", type=float, default=10, help="of each kind of read (10)")
    add("--dead-blobs", type=int, default=100_000, help="to collect in the end (100000)")
    add("--per-second", type=float, default=300, help="GETs meanwhile (300)")
    add("--output", type=Path, help="write PATH.md, PATH.json and PATH.svg")
    add("--work-dir", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
