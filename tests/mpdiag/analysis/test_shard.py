"""Which images each process measures."""

import pytest

from mpdiag.analysis import Shard


@pytest.mark.parametrize(
    ("total", "size", "world_size"), [(0, 4, 2), (3, 4, 2), (33, 4, 3), (8, 4, 1)]
)
def test_every_image_is_in_one_block_of_one_process(total: int, size: int, world_size: int) -> None:
    shards = [Shard(rank, world_size) for rank in range(world_size)]
    blocks = [block for shard in shards for block in shard.blocks(total, size)]
    assert sorted(index for block in blocks for index in block) == list(range(total))
    assert all(block.start % size == 0 and len(block) <= size for block in blocks)
    assert {(b.start, b.stop) for b in blocks} == {
        (b.start, b.stop) for b in Shard().blocks(total, size)
    }


def test_a_single_process_is_the_main_process() -> None:
    shard = Shard()
    assert shard.is_main_process
    shard.barrier()
    assert shard.run_on_main_process(lambda: 7) == 7
