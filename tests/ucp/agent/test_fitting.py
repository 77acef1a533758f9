"""A report that controllers take."""

from hypothesis import given
from hypothesis import strategies as st

from dtr.ucp.agent.fitting import fitted
from dtr.ucp.model import MAX_REPORT_BYTES, NodeReport, ProcessReport, ProcessState

TEXT = st.builds(lambda part, times: part * times, st.text(max_size=20), st.integers(0, 2000))


@given(
    st.lists(TEXT, max_size=90),
    st.dictionaries(st.text(max_size=20), TEXT, max_size=6),
    st.lists(TEXT, max_size=20),
)
def test_no_report_is_refused_for_its_size(
    problems: list[str], services: dict[str, str], messages: list[str]
) -> None:
    """Whatever components and processes say: a node that is not heard is taken for dead."""
    report = NodeReport(
        node_id="n" * 26,
        at=1,
        version="1",
        revision=1,
        problems=tuple(problems),
        services=dict(services),
        processes=tuple(
            ProcessReport(name="p", state=ProcessState.READY, since=0, message=each)
            for each in messages
        ),
    )
    sent = fitted(report)
    assert len(sent.changed(received_at=1e9 + 1 / 3).encoded()) <= MAX_REPORT_BYTES


def test_what_was_left_out_is_said() -> None:
    """The service by name; what fits stays as it is."""
    report = NodeReport(
        node_id="n",
        at=1,
        version="1",
        revision=1,
        services={"replica": "x" * MAX_REPORT_BYTES, "balancer": {"is_ready": True}},
        problems=("a problem",),
    )
    sent = fitted(report)
    assert set(sent.services) == {"balancer"}
    assert "What service replica reports is too large" in sent.problems[0]
    assert sent.problems[1] == "a problem"
    small = report.changed(services={})
    assert fitted(small) == small
