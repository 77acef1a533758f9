"""A node's report, made as large as controllers take it; pure."""

from typing import Final

from dtr.ucp.model import MAX_REPORT_BYTES, NodeReport

_ROOM_BYTES: Final = 512
"""For what the controller adds."""
_MAX_PROBLEMS: Final = 64
_FEW: Final = 16
_SHORT_CHARACTERS: Final = 240


def fitted(report: NodeReport) -> NodeReport:
    """Return a report that is not refused for its size.

    It loses what says least: first the ends of long sentences and all but a few problems, then the
    largest reports of services, of which it says so.
    """
    known: NodeReport = report.changed(problems=report.problems[:_MAX_PROBLEMS])
    if _fits(known):
        return known
    shorter: NodeReport = known.changed(
        problems=tuple(map(_shortened, report.problems[:_FEW])),
        processes=tuple(
            each.changed(message=_shortened(each.message)) for each in report.processes
        ),
    )
    while not _fits(shorter) and shorter.services:
        services = dict(shorter.services)
        largest = max(services, key=lambda name: (len(str(services[name])), name))
        del services[largest]
        lost = f"What service {_shortened(largest)} reports is too large to be sent. See its log."
        shorter = shorter.changed(services=services, problems=(lost, *shorter.problems)[:_FEW])
    return shorter if _fits(shorter) else shorter.changed(processes=(), probe=None)


def _fits(report: NodeReport) -> bool:
    return len(report.encoded()) <= MAX_REPORT_BYTES - _ROOM_BYTES


def _shortened(text: str) -> str:
    return text if len(text) <= _SHORT_CHARACTERS else f"{text[:_SHORT_CHARACTERS]}…"
