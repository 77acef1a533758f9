"""`python -m benchmarks`: measure the registry against its peers and say who met what."""

import argparse
import datetime as dt
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import machine
from benchmarks.backends import DtrPostgresql, DtrS3
from benchmarks.contenders import Before, Contender, Distribution, DockerRegistry, Dtr
from benchmarks.content import MEBIBYTE, QUICK, Sizes
from benchmarks.failure import BenchmarkError
from benchmarks.report import Report
from benchmarks.rows import ROWS, choose
from benchmarks.runner import Runner

PEERS: Sequence[type[Contender]] = (Dtr, DtrPostgresql, DtrS3, DockerRegistry, Distribution)
CONTENDERS: Sequence[type[Contender]] = (*PEERS, Before)
RESULTS = Path(__file__).resolve().parent / "results"
LONGEST_SECONDS = 240.0  # a token of ours lives for 300


def main() -> int:
    """Run the benchmarks; 0 when every cell was measured, whatever the budgets say.

    1 when a cell could not be measured, 2 when the run could not be made.
    """
    arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        report = _run(arguments)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print("\n" + report.markdown())
    output = arguments.output or (None if arguments.quick else RESULTS / report.date)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_name(f"{output.name}.md").write_text(report.markdown(), encoding="utf-8")
        output.with_name(f"{output.name}.json").write_text(report.as_json(), encoding="utf-8")
        print(f"written to {output}.md and .json")
    return 1 if report.has_failures else 0


def _run(arguments: argparse.Namespace) -> Report:
    sizes = _sizes(arguments)
    options = frozenset({"--with-collection"} if arguments.with_collection else ())
    rows = choose(arguments.rows, options)
    if not rows:
        raise BenchmarkError(f"no row begins with {' or '.join(arguments.rows)}")
    contenders, skipped = _available(arguments.contenders)
    described = machine.describe(arguments.work_dir)
    with tempfile.TemporaryDirectory(prefix="dtr-bench-", dir=arguments.work_dir) as folder:
        outcomes = Runner(sizes, contenders, Path(folder)).run(rows)
    return Report(
        date=dt.datetime.now(tz=dt.UTC).date().isoformat(),
        machine=described,
        versions={each.title: each.version() for each in contenders},
        titles={each.key: each.title for each in contenders},
        skipped=skipped,
        missing=frozenset(arguments.contenders) - {each.key for each in contenders},
        sizes=sizes,
        quick=arguments.quick,
        outcomes=outcomes,
    )


def _available(keys: Sequence[str]) -> tuple[list[Contender], dict[str, str]]:
    """Return who can take part, and why others cannot."""
    taking: list[Contender] = []
    skipped: dict[str, str] = {}
    for contender in (kind() for kind in CONTENDERS if kind.key in keys):
        why = contender.prepare()
        if why is None:
            taking.append(contender)
        else:
            skipped[contender.title] = why
            print(f"left out: {contender.title}: {why}", flush=True)
    if not taking:
        raise BenchmarkError("no contender can take part")
    return taking, skipped


def _sizes(arguments: argparse.Namespace) -> Sizes:
    sizes = QUICK if arguments.quick else Sizes()
    chosen = {
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "dead_blobs": arguments.dead_blobs,
        "big_bytes": arguments.big_mebibytes and arguments.big_mebibytes * MEBIBYTE,
    }
    return replace(sizes, **{name: value for name, value in chosen.items() if value is not None})


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"from 1 to {LONGEST_SECONDS:g}")
    return seconds


def _parse() -> argparse.Namespace:
    keys = [kind.key for kind in CONTENDERS]
    usual = [kind.key for kind in PEERS]
    row_keys = ", ".join(row.key for row in ROWS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, help="rounds of each row (3)")
    add("--seconds", type=_seconds, help="seconds of each run of a rate (10)")
    add("--rows", nargs="+", default=[], metavar="KEY", help=f"only these: {row_keys}")
    add("--contenders", nargs="+", default=usual, choices=keys, help="only these")
    add("--quick", action="store_true", help="a smoke test: tiny sizes, one round, no file")
    add("--with-collection", action="store_true", help="also measure during collection")
    add("--dead-blobs", type=int, help="how many blobs to collect (10000)")
    add("--big-mebibytes", type=int, help="size of the large blob (1024)")
    add("--output", type=Path, help="write PATH.md and PATH.json (benchmarks/results/DATE)")
    add("--work-dir", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
