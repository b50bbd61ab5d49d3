"""Environment variables of torchrun."""

import pytest

from mpdiag.analysis.shard import torchrun_shard
from mpdiag.errors import ConfigError
from trainers.distributed import DistributedContext


@pytest.mark.parametrize("value", ["abc", "", "0", "-1", "1.5", "9" * 5000])
def test_invalid_number_of_processes(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(ConfigError, match=r"WORLD_SIZE: .* is not a number of at least 1"):
        DistributedContext.initialize()
    with pytest.raises(ConfigError, match="WORLD_SIZE"), torchrun_shard():
        pass


def test_invalid_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ConfigError, match="RANK: 'first' is not a number of at least 0"):
        DistributedContext.initialize()


def test_variables_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert DistributedContext.initialize().is_main_process
    with torchrun_shard() as shard:
        assert (shard.rank, shard.world_size) == (0, 1)
