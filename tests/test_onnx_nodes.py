"""Every operation of the long tail computes what the onnx package publishes for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from isa.errors import ToolError
from tests.node_cases import node_cases, run_case
from tests.node_document import SUPPORTED, document, reason_against

CASES = node_cases(SUPPORTED)


@pytest.mark.parametrize("op_type", sorted({case.op_type for case in CASES}))
def test_published_cases_of(op_type: str) -> None:
    """A case that is listed as not supported must not pass either, so that the list stays true."""
    for case in CASES:
        if case.op_type != op_type:
            continue
        if reason_against(case.name) is None:
            run_case(case)
        else:
            with pytest.raises((ToolError, AssertionError)):
                run_case(case)


def test_every_operation_is_tested() -> None:
    assert {case.op_type for case in CASES} == SUPPORTED


def test_the_document_is_current() -> None:
    path = Path(__file__).parent.parent / "docs" / "supported_ops.md"
    assert path.read_text() == document(CASES), "run python -m tests.node_document > docs/supported_ops.md"
