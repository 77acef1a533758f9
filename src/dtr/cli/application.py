"""All commands of `dtr` together; each is imported when it is called."""

from dtr.cli.command_line import new_command_line, run_command_line

application = new_command_line(
    "dtr",
    "A trusted container registry.",
    {
        "serve": "dtr.cli.serve:serve",
        "install": "dtr.cli.cluster.install:install",
        "join": "dtr.cli.cluster.install:join",
        "remove": "dtr.cli.cluster.change:remove",
        "destroy": "dtr.cli.cluster.install:destroy",
        "reconfigure": "dtr.cli.cluster.change:reconfigure",
        "emergency-repair": "dtr.cli.cluster.change:emergency_repair",
        "status": "dtr.cli.cluster.status:status",
        "cancel": "dtr.cli.cluster.change:cancel",
        "load-balancer": "dtr.cli.cluster.balancers:commands",
        "user": "dtr.cli.users:commands",
        "org": "dtr.cli.organizations:commands",
        "repo": "dtr.cli.repositories:commands",
        "token": "dtr.cli.tokens:commands",
        "upload": "dtr.cli.uploads:commands",
        "migrate": "dtr.cli.migrate:migrate_metadata",
        "copy-metadata": "dtr.cli.copy:copy_metadata",
        "import": "dtr.cli.importing:import_registry",
        "read-only": "dtr.cli.read_only:commands",
        "gc": "dtr.cli.maintenance:gc",
        "fsck": "dtr.cli.maintenance:fsck",
        "jobs": "dtr.cli.jobs:commands",
        "storage": "dtr.cli.storage:commands",
        "config": "dtr.cli.config:commands",
    },
)


def main() -> None:
    """Run `dtr`; exit status 0 is success, 1 a failure, 2 a wrong call."""
    run_command_line(application, "dtr")
