"""When a schedule is due: a cron expression in UTC, or a pause."""

import re
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

_PAUSE = re.compile(r"every (?P<seconds>\d+(?:\.\d+)?) s")


def every(seconds: float) -> str:
    """Return the timing of a job that runs again so long after it ended.

    >>> every(300), every(0.2)
    ('every 300 s', 'every 0.2 s')
    """
    return f"every {f'{seconds:f}'.rstrip('0').rstrip('.')} s"


def check_timing(text: str) -> str:
    """Return `text` if it is a timing.

    >>> check_timing("30 3 * * SAT")
    '30 3 * * SAT'

    Raises:
        ValueError: it is neither a cron expression nor a pause, or names no day that there is.

    """
    next_time(text, 0)
    return text


def pause_seconds(timing: str) -> float | None:
    """Return the pause of a timing that is one, and None for a cron expression.

    >>> pause_seconds("every 300 s"), pause_seconds("0 3 * * *")
    (300.0, None)
    """
    pause = _PAUSE.fullmatch(timing)
    return float(pause["seconds"]) if pause else None


def next_time(timing: str, after: float) -> float:
    """Return the first time later than `after`, in seconds since the epoch.

    >>> next_time("every 300 s", 1000)
    1300.0
    >>> next_time("0 3 * * *", 0)
    10800.0

    Raises:
        ValueError: `timing` is none.

    """
    pause = pause_seconds(timing)
    if pause is not None:
        return after + pause
    try:
        return next(CronSim(timing, datetime.fromtimestamp(after, UTC))).timestamp()
    except StopIteration:
        raise ValueError(
            f"{timing!r} names no day that there is: choose another day or month"
        ) from None
    except CronSimError:
        raise ValueError(
            f"{timing!r} is not a cron expression: write five fields, "
            "such as 30 3 * * *, or 30 3 * * SAT"
        ) from None
