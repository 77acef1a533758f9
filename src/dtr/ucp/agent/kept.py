"""What the node is wanted to run, kept across restarts and the absence of all controllers."""

from typing import Final

import structlog
from pydantic import ValidationError

from dtr.server.datadir import write_atomically
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.model import NodeIdentity, Wanted

_LOG = structlog.get_logger()
_MARKER: Final = "removed"
_EXPLANATION: Final = """\
{node_id}
A controller said that this machine is no node any more, so nothing runs here. The data is kept.
The agent goes on asking: where the node was removed by mistake and is known again, it goes on.
"""


class RefusedError(Exception):
    """A `Wanted` that this node must not follow; a sentence for the operator."""


class KeptWanted:
    """The newest `Wanted`, in memory and in `wanted.json` (0600: it holds secrets).

    Never goes back: to a smaller epoch, or to a smaller revision of the same epoch. Revisions are
    the store's and begin again at a smaller one when it is restored from a backup, which is why a
    restore makes a new epoch. A smaller revision without one comes from a store that others have
    left behind: managers given up for lost that returned with a majority among themselves. To
    follow those would be to run two clusters at once.
    """

    def __init__(self, directory: NodeDirectory, identity: NodeIdentity) -> None:
        self._path = directory.wanted
        self._marker = directory.root / _MARKER
        self._identity = identity
        self.wanted = self._load()
        self._is_written = True

    @property
    def is_removed(self) -> bool:
        """Whether a controller said that this is no node any more; survives restarts.

        Only of the node that it was said of: a machine that is installed anew has another id.
        """
        try:
            first, _, _ = self._marker.read_text(encoding="utf-8", errors="replace").partition("\n")
        except FileNotFoundError:
            return False
        return first == self._identity.node_id

    @property
    def problems(self) -> list[str]:
        """What an operator should know."""
        if self._is_written:
            return []
        problem = (
            f"What this node is to run cannot be written to {self._path}:"
            " after a restart it would run something older. See that the disk has room."
        )
        return [problem]

    def accept(self, wanted: Wanted) -> bool:
        """Take a controller's answer; return whether it is to be carried out, being different.

        Blocks until it is on the disk. A disk that does not take it hinders nothing but that.

        Raises:
            RefusedError: it is another cluster's, another node's, or older than what is known.

        """
        self._check(wanted)
        before, self.wanted = self.wanted, wanted
        is_same = (
            before is not None and before.model_copy(update={"revision": wanted.revision}) == wanted
        )
        if not is_same or not self._is_written:
            self._write(wanted)
        return not is_same

    def mark_removed(self) -> None:
        """Note that nothing may run here, however often the agent starts."""
        text = _EXPLANATION.format(node_id=self._identity.node_id)
        write_atomically(self._marker, text.encode(), mode=0o644)

    def unmark_removed(self) -> None:
        """Note that it is a node again."""
        self._marker.unlink(missing_ok=True)

    def _check(self, wanted: Wanted) -> None:
        if wanted.cluster_id != self._identity.cluster_id:
            raise RefusedError(
                "A controller of another cluster answered, and its answer is ignored."
                " Another machine has taken a controller's address; see 'ucp status'."
            )
        if wanted.node.id != self._identity.node_id:
            raise RefusedError(
                "A controller answered for another node, and its answer is ignored."
                " Its version may not fit; upgrade the controllers and this node."
            )
        known = self.wanted
        if known is not None and _is_older(wanted, known):
            raise RefusedError(
                f"A controller sent an older desired state (revision {wanted.revision} after"
                f" {known.revision}), which is ignored. If managers that counted as lost have"
                " returned, wipe them with 'ucp uninstall'."
            )

    def _load(self) -> Wanted | None:
        try:
            wanted = Wanted.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            # Not in the log: the file's content, which has secrets.
            _LOG.warning(
                "wanted.json cannot be used", path=str(self._path), why=type(error).__name__
            )
            return None
        is_own = (wanted.cluster_id, wanted.node.id) == (
            self._identity.cluster_id,
            self._identity.node_id,
        )
        return wanted if is_own else None

    def _write(self, wanted: Wanted) -> None:
        try:
            write_atomically(self._path, wanted.encoded())
            self._is_written = True
        except OSError as error:
            self._is_written = False
            _LOG.warning("wanted.json cannot be written", path=str(self._path), error=str(error))


def _is_older(wanted: Wanted, known: Wanted) -> bool:
    return (wanted.epoch, wanted.revision) < (known.epoch, known.revision)
