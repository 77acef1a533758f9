"""All commands of `ucp` together; each is imported when it is called."""

from dtr.cli.command_line import new_command_line, run_command_line

application = new_command_line(
    "ucp",
    "The control plane: it manages machines and what runs on them.\n\n"
    "Start with 'ucp install' on one machine; it prints the command for the others.",
    {
        "install": "dtr.cli.ucp.install:install",
        "join": "dtr.cli.ucp.join:join",
        "node": "dtr.cli.ucp.nodes:commands",
        "token": "dtr.cli.ucp.tokens:commands",
        "status": "dtr.cli.ucp.administration:status",
        "passwd": "dtr.cli.ucp.administration:passwd",
        "ca": "dtr.cli.ucp.administration:ca",
        "backup": "dtr.cli.ucp.administration:backup",
        "restore": "dtr.cli.ucp.install:restore",
        "emergency-repair": "dtr.cli.ucp.repair:emergency_repair",
        "uninstall": "dtr.cli.ucp.uninstall:uninstall",
        "agent": "dtr.cli.ucp.processes:agent",
        "controller": "dtr.cli.ucp.processes:controller",
    },
)


def main() -> None:
    """Run `ucp`; exit status 0 is success, 1 a failure, 2 a wrong call."""
    run_command_line(application, "ucp")
