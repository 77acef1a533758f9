"""`dtr gc` and `dtr fsck`."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from dtr.cli.context import ConfigOption, DataDirOption, JsonOption, open_registry, show_json
from dtr.collect.check import Checker, Finding, Severity
from dtr.collect.collector import Collected, Collector
from dtr.server.app import collect_settings

_CONSOLE = Console(stderr=True)


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would go first; change nothing.")
    ] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Collect garbage now, while the registry serves.

    Takes what nothing refers to and whose grace is over: blobs without a manifest, manifests that
    nothing reaches (where collect.untagged says so), uploads that nobody continued. The server does
    the same by itself every collect.interval_seconds.
    """
    with open_registry(config, data_dir) as registry:
        collector = Collector(
            registry.database, registry.drivers.store, collect_settings(registry.settings)
        )
        if dry_run:
            done = asyncio.run(collector.plan())
        else:
            with _CONSOLE.status("Collecting") as status:
                done = asyncio.run(
                    collector.run(lambda done: status.update(f"Collected {_counts(done)}"))
                )
    if as_json:
        show_json({"dry_run": dry_run, **asdict(done)})
    else:
        typer.echo(f"{'Would collect' if dry_run else 'Collected'} {_counts(done)}.")


def fsck(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Delete bytes that nothing knows, and forget content whose bytes are lost, "
            "so that the next push brings it back.",
        ),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every blob and compare its digest.")
    ] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare metadata and storage both ways; may run while the registry serves.

    Exit status 1: something is damaged that was not repaired. Garbage and notes do no harm.
    """
    with open_registry(config, data_dir) as registry:
        checker = Checker(registry.database, registry.drivers.store, repair=repair, verify=verify)
        findings = asyncio.run(_gather(checker, quiet=as_json))
    if as_json:
        show_json([asdict(finding) for finding in findings])
    counts = {kind: sum(found.severity is kind for found in findings) for kind in Severity}
    if not as_json:
        typer.echo(", ".join(f"{count} {kind}" for kind, count in counts.items()) + ".")
    if any(found.severity is Severity.DAMAGE and not found.repaired for found in findings):
        raise typer.Exit(1)


async def _gather(checker: Checker, *, quiet: bool) -> list[Finding]:
    findings = []
    async for finding in checker.findings():
        findings.append(finding)
        if not quiet:
            repaired = " (repaired)" if finding.repaired else ""
            typer.echo(f"{finding.severity}: {finding.subject}: {finding.what}{repaired}")
    return findings


def _counts(done: Collected) -> str:
    return (
        f"{done.manifests} manifests, {done.links} blobs of repositories, "
        f"{done.blobs} blobs from disk ({done.bytes / 1e6:.1f} MB), {done.uploads} uploads"
    )
