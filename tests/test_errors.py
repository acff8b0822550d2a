"""The exact texts and codes of faults."""

from __future__ import annotations

import pytest

from netstore.errors import (
    Fault,
    Reason,
    fault_from_text,
    parse_problem,
    permission_denied,
    refusal,
    timed_out,
    too_many,
    unknown,
)

TOLD = {
    "etcdserver: key is not provided": (3, None),
    "etcdserver: key not found": (3, None),
    "etcdserver: value is provided": (3, None),
    "etcdserver: lease is provided": (3, None),
    "etcdserver: too many operations in txn request": (3, None),
    "etcdserver: duplicate key given in txn request": (3, None),
    "etcdserver: invalid sort option": (3, None),
    "etcdserver: mvcc: required revision has been compacted": (11, None),
    "etcdserver: mvcc: required revision is a future revision": (11, None),
    "etcdserver: mvcc: database space exceeded": (8, None),
    "etcdserver: requested lease not found": (5, None),
    "etcdserver: lease already exists": (9, None),
    "etcdserver: too large lease TTL": (11, None),
    "etcdserver: corrupt cluster": (15, None),
    "etcdserver: no leader": (14, None),
    "etcdserver: request timed out": (14, None),
    "etcdserver: request timed out, possibly due to previous leader failure": (14, None),
    "etcdserver: server stopped": (14, None),
    "etcdserver: the answer could not be made": (13, None),
    "etcdserver: too many requests": (8, None),
    "etcdserver: no space left on device": (8, None),
    "membership: ID exists": (9, "etcdserver: member ID already exist"),
    "membership: ID removed": (5, "etcdserver: member not found"),
    "membership: ID not found": (5, "etcdserver: member not found"),
    "membership: peerURL exists": (9, "etcdserver: Peer URLs already exists"),
    "membership: can only promote a learner member": (9, "etcdserver: can only promote a learner member"),
    "membership: too many learner members in cluster": (9, "etcdserver: too many learner members in cluster"),
    "membership: too many voting members in cluster": (9, "etcdserver: too many voting members in cluster"),
    "etcdserver: can only promote a learner member which is in sync with leader": (9, None),
    "etcdserver: re-configuration failed due to not enough started members": (9, None),
    "etcdserver: unhealthy cluster": (14, None),
    "etcdserver: not leader": (9, None),
    "etcdserver: bad leader transferee": (9, None),
    "etcdserver: request timed out, leader transfer took too long": (14, None),
}
"""Text -> gRPC status code, and the text of the v3 API where that differs (v3 API, error table)."""


@pytest.mark.parametrize("text", TOLD)
def test_the_text_of_a_reason_gives_its_codes(text: str) -> None:
    code, v3_text = TOLD[text]
    fault = fault_from_text(text, 7)
    assert (fault.code, fault.index, fault.cause, fault.outcome_known) == (300, 7, text.encode(), True)
    assert (fault.grpc_code, fault.v3_text) == (code, v3_text or text)
    assert fault.reason is not None
    assert refusal(fault.reason, 7) == fault


@pytest.mark.parametrize("reason", Reason)
def test_the_v2_code_of_a_reason_does_not_depend_on_how_the_fault_is_made(reason: Reason) -> None:
    code = 110 if reason is Reason.PERMISSION_DENIED else 300
    made = (refusal(reason), unknown(reason), fault_from_text(reason.text))
    assert [(fault.code, fault.reason) for fault in made] == [(code, reason)] * 3
    assert permission_denied() == refusal(Reason.PERMISSION_DENIED)


def test_a_text_without_a_reason_is_kept() -> None:
    fault = fault_from_text("never heard of")
    assert fault == Fault(300, b"never heard of")
    assert (fault.grpc_code, fault.v3_text) == (2, "never heard of")


def test_the_texts_of_reasons_differ() -> None:
    assert len({reason.text for reason in Reason}) == len(Reason)
    assert all(reason.v3_text.startswith("etcdserver: ") or " " in reason.v3_text for reason in Reason)


def test_a_timeout_has_an_unknown_outcome() -> None:
    assert (timed_out().outcome_known, too_many().outcome_known) == (False, True)
    assert timed_out(Reason.TIMED_OUT_LEADER).cause == Reason.TIMED_OUT_LEADER.cause


def test_what_is_wrong_with_a_document_is_told_of_the_document() -> None:
    assert parse_problem(RecursionError("maximum recursion depth exceeded")) == "nested too deep"
    assert parse_problem(ValueError("a bracket\n  is missing")) == "a bracket is missing"
