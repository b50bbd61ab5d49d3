"""Environment variables of torchrun."""

import pytest

from mpdiag import torchrun
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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE: is 2, but RANK is not set; start with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
        ({"RANK": "1"}, "RANK: 1 is not below WORLD_SIZE, 1"),
    ],
)
def test_variables_of_another_launcher(
    values: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        DistributedContext.initialize()
    with pytest.raises(ConfigError, match=message), torchrun_shard():
        pass


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert torchrun.local_gpu(3) == 2
    with pytest.raises(ConfigError, match="LOCAL_RANK: is 2, but there are 2 GPUs; start as many"):
        torchrun.local_gpu(2)


def test_variables_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert DistributedContext.initialize().is_main_process
    with torchrun_shard() as shard:
        assert (shard.rank, shard.world_size) == (0, 1)
