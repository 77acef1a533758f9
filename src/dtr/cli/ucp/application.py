"""All commands of `ucp` together."""

from dtr.cli.command_line import new_command_line, run_command_line
from dtr.cli.ucp import administration, install, join, nodes, processes, repair, uninstall

application = new_command_line(
    "ucp",
    "The control plane: machines, who they are, and what runs on them.\n\n"
    "Begin with 'ucp install' on one machine; it prints what to type on the others.",
)
application.command("install")(install.install)
application.command("join")(join.join)
application.add_typer(nodes.commands, name="node", help="The machines that UCP manages.")
application.add_typer(
    administration.tokens, name="token", help="The join token: what lets machines join."
)
application.command("status")(administration.status)
application.command("passwd")(administration.passwd)
application.command("ca")(administration.ca)
application.command("backup")(administration.backup)
application.command("restore")(install.restore)
application.command("emergency-repair")(repair.emergency_repair)
application.command("uninstall")(uninstall.uninstall)
application.command("agent")(processes.agent)
application.command("controller")(processes.controller)


def main() -> None:
    """Run `ucp`; exit status 0 is success, 1 a failure, 2 a wrong call."""
    run_command_line(application, "ucp")
