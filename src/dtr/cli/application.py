"""All commands of `dtr` together."""

from dtr.cli import (
    config,
    copy,
    importing,
    jobs,
    maintenance,
    migrate,
    repositories,
    serve,
    storage,
    tokens,
    users,
)
from dtr.cli.cluster import balancers, change, install, status
from dtr.cli.command_line import new_command_line, run_command_line

application = new_command_line("dtr", "A trusted container registry.")
application.command("serve")(serve.serve)
application.command("install")(install.install)
application.command("join")(install.join)
application.command("remove")(change.remove)
application.command("destroy")(install.destroy)
application.command("reconfigure")(change.reconfigure)
application.command("emergency-repair")(change.emergency_repair)
application.command("status")(status.status)
application.command("cancel")(change.cancel)
application.add_typer(
    balancers.commands, name="load-balancer", help="What stands before the replicas."
)
application.add_typer(users.commands, name="user", help="Who may log in.")
application.add_typer(repositories.commands, name="repo", help="Repositories and who may use them.")
application.add_typer(tokens.commands, name="token", help="Access tokens: passwords for programs.")
application.command("migrate")(migrate.migrate_metadata)
application.command("copy-metadata")(copy.copy_metadata)
application.command("import")(importing.import_registry)
application.command("gc")(maintenance.gc)
application.command("fsck")(maintenance.fsck)
application.add_typer(jobs.commands, name="jobs", help="Background jobs: what runs, ran and will.")
application.add_typer(storage.commands, name="storage", help="Where blobs are.")
application.add_typer(config.commands, name="config", help="Settings: check and explain them.")


def main() -> None:
    """Run `dtr`; exit status 0 is success, 1 a failure, 2 a wrong call."""
    run_command_line(application, "dtr")
