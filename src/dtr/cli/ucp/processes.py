"""`ucp agent` and `ucp controller`.

What each is put together from is imported when it runs: both live as long as their machine and
keep in memory all that they ever imported, and no other command should wait for it.
"""

from typing import Annotated, Literal

import typer

from dtr.cli.ucp.connection import DATA_DIRECTORY
from dtr.cli.ucp.options import DataDirOption
from dtr.ucp.agent.port import NodeDirectory

LogFormatOption = Annotated[
    Literal["text", "json"], typer.Option("--log-format", envvar="UCP_LOG_FORMAT")
]
LogLevelOption = Annotated[
    Literal["debug", "info", "warning", "error"],
    typer.Option("--log-level", envvar="UCP_LOG_LEVEL"),
]


def agent(
    data_dir: DataDirOption = DATA_DIRECTORY,
    log_format: LogFormatOption = "text",
    log_level: LogLevelOption = "info",
) -> None:
    """Run this node's agent in the foreground until SIGTERM or Ctrl-C.

    It starts, watches and stops everything that UCP wants on this node. Without a control plane it
    continues with the last orders. The init system should keep it running.
    """
    from dtr.cli.ucp.agent_process import run  # noqa: PLC0415 - see above

    run(NodeDirectory(data_dir.absolute()), log_format=log_format, log_level=log_level)


def controller(
    data_dir: DataDirOption = DATA_DIRECTORY,
    log_format: LogFormatOption = "text",
    log_level: LogLevelOption = "info",
) -> None:
    """Run this node's controller in the foreground; a manager's agent starts it."""
    from dtr.cli.ucp.controller_process import run  # noqa: PLC0415 - see above

    run(NodeDirectory(data_dir.absolute()), log_format=log_format, log_level=log_level)
