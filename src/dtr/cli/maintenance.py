"""`dtr gc` and `dtr fsck`."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Annotated

import typer

from dtr.cli.context import ConfigOption, DataDirOption, Registry, open_registry
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, fail, new_console, show_json
from dtr.collect.check import Checker, Finding, Severity, summary_of
from dtr.collect.collector import Collected, Collector
from dtr.jobs import Body, Job, JobContext, JobKind, NewJob, Runner, State, runner_name
from dtr.server.app import collect_settings
from dtr.server.background import (
    COLLECT,
    FSCK,
    checked,
    is_harmless,
    runner_settings,
    sentence_of,
)
from dtr.server.logs import configure_logging

_CONSOLE = new_console(stderr=True)


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted, and why; delete nothing.")
    ] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Collect garbage now, while the registry serves.

    Deletes content to which nothing refers and whose grace period is over: blobs without a
    manifest, untagged manifests (if collect.untagged is "collect"), and uploads that nobody
    continued. The server does the same every collect.interval_seconds. The command runs as a job:
    'dtr jobs' shows it, and it waits for a running job of the same kind.
    """
    with open_registry(config, data_dir) as registry:
        if not dry_run:
            registry.require_writable()
        collector = Collector(
            registry.database, registry.store, collect_settings(registry.settings)
        )
        done = asyncio.run(collector.plan()) if dry_run else _collect(registry, collector)
    if as_json:
        show_json({"dry_run": dry_run, **asdict(done)})
    else:
        echo(f"{'Would collect' if dry_run else 'Collected'} {done}.")
        for share in done.reasons:
            echo(f"{'Keeps' if share.is_kept else 'Takes'} {share}.")


def fsck(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Delete bytes without metadata, and metadata of lost blobs, so that the next "
            "push stores them again.",
        ),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every blob and compare its digest.")
    ] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare metadata and storage both ways; can run while the registry serves.

    The command runs as a job: 'dtr jobs' shows it, and it waits for a running job of the same kind.
    Exit status 1 means that there is damage that was not repaired. Garbage and notes do no harm.
    """
    with open_registry(config, data_dir) as registry:
        if repair:
            registry.require_writable()
        checker = Checker(registry.database, registry.store, repair=repair, verify=verify)
        findings = _check(registry, checker, {"repair": repair, "verify": verify}, quiet=as_json)
    if as_json:
        show_json([asdict(finding) for finding in findings])
    else:
        echo(_summary(findings))
    if not all(map(is_harmless, findings)):
        raise typer.Exit(1)


def _summary(findings: list[Finding]) -> str:
    """Say as a sentence how much was found."""
    counts = {kind: sum(found.severity is kind for found in findings) for kind in Severity}
    return f"{summary_of(counts).capitalize()}."


def _collect(registry: Registry, collector: Collector) -> Collected:
    collected = Collected()

    with _CONSOLE.status("Collecting") as status:

        async def collect(context: JobContext) -> None:
            nonlocal collected

            def progress(done: Collected) -> None:
                context.progress(f"collected {done}")
                status.update(f"Collected {done}")

            collected = await collector.run(progress)

        job = _run_here(registry, COLLECT, {}, collect, status.update)
    if job.state is not State.SUCCEEDED:
        fail(f"the collection {job.state}{job.error and ': '}{job.error}")
    return collected


def _check(
    registry: Registry, checker: Checker, parameters: dict[str, bool], *, quiet: bool
) -> list[Finding]:
    findings = []

    async def check(context: JobContext) -> None:
        async for finding in checked(checker, context):
            findings.append(finding)
            if not quiet:
                echo(sentence_of(finding))

    job = _run_here(registry, FSCK, parameters, check, lambda text: echo(text, err=True))
    if job.state is not State.SUCCEEDED and all(map(is_harmless, findings)):
        fail(f"the check {job.state}{job.error and ': '}{job.error}")
    return findings


def _run_here(
    registry: Registry,
    kind: JobKind,
    parameters: dict[str, bool],
    body: Body,
    tell: Callable[[str], None],
) -> Job:
    """Run a job in this process; `tell` is told, once, of each job that it has to wait for."""
    configure_logging(registry.settings.log.format, "error")
    runner = Runner(
        registry.database,
        {kind: body},
        settings=replace(runner_settings(registry.settings), slots=0),
        name=runner_name("dtr"),
    )
    told = set()

    def wait(running: list[Job]) -> None:
        for job in running:
            if job.id not in told:
                told.add(job.id)
                tell(f"Waiting for job {job.id}, {job.kind}, which runs on {job.runner}")

    async def run() -> Job:
        try:
            return await runner.run_here(NewJob(kind, parameters, most_attempts=1), wait)
        finally:
            await registry.drivers.store.close()

    return asyncio.run(run())
