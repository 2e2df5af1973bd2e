"""Settings and values that the property tests share. Examples follow from the tests: every run has the same ones."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

steady = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NOT_FINITE = st.sampled_from([float("nan"), float("inf"), float("-inf")])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NOT_FINITE | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
"""What a stranger may write as JSON: Python's own writer lets NaN and infinities through too."""
