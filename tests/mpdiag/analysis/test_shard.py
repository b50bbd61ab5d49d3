"""Which blocks are whose."""

import pytest

from mpdiag.analysis import Shard


@pytest.mark.parametrize(("total", "size", "world"), [(0, 4, 2), (3, 4, 2), (33, 4, 3), (8, 4, 1)])
def test_every_image_is_in_one_block_of_one_process(total: int, size: int, world: int) -> None:
    blocks = [block for rank in range(world) for block in Shard(rank, world).blocks(total, size)]
    assert sorted(index for block in blocks for index in block) == list(range(total))
    assert all(block.start % size == 0 and len(block) <= size for block in blocks)
    assert {(b.start, b.stop) for b in blocks} == {
        (b.start, b.stop) for b in Shard().blocks(total, size)
    }


def test_alone_it_leads_and_waits_for_no_one() -> None:
    shard = Shard()
    shard.wait()
    assert shard.first and shard.lead(lambda: 7) == 7
