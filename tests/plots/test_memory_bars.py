"""Memory as bars: parts end to end, in GiB, up to what largest_batch reckons with."""

import pytest

from vladva_kit.plots.memory import memory_bars
from vladva_kit.training.memory import CONTEXT, GIB, SLACK, Memory


def test_parts_stand_end_to_end_and_the_last_ends_at_what_is_reckoned_with():
    memory = Memory(4 * GIB, GIB, 2 * GIB)
    axes = memory_bars({"a": memory, "b": memory}, {"T4": 15}).axes[0]
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches[:4]]
    assert ends[:3] == [(0, 4), (4, 5), (5, 7)]
    assert ends[3] == pytest.approx((7, (7 * GIB * SLACK + CONTEXT) / GIB))
    assert axes.lines[0].get_xdata() == [15, 15] and axes.get_xlim()[1] > 15
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    with pytest.raises(ValueError, match="no memory"):
        memory_bars({}, {})
