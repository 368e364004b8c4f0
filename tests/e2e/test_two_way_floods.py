"""Flat-out traffic both ways at once never stops, and stays exact.

The processors are what it fights for, so nothing else may run beside it.
"""

from __future__ import annotations

import pytest

from harness import Scene, scaled
from stage import carry, limit_ms

STALL_MS = 1000.0
MIB = 1024 * 1024


@pytest.mark.parametrize("each_way", [8, 64])
def test_floods_both_ways_never_stop_and_stay_exact(
    scene: Scene, kind: str, each_way: int
) -> None:
    address = scene.addresses.tcp()
    pair, doors = carry(scene, kind, {"flood": address})
    amount = scaled(1024 * MIB // each_way, MIB)
    result = scene.traffic(
        *("flood", "--connect", doors["flood"].traffic, "--listen", address.traffic),
        *("--uploads", each_way, "--downloads", each_way, "--bytes", amount),
        timeout=300,
    )
    print("flood:", result)
    assert result["longest_gap_ms"] < limit_ms(STALL_MS), result
    pair.wait_at_rest()
