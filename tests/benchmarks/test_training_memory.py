"""The training step of `mpdiag bench memory` is the trainer's, with an MP part."""

from benchmarks.training_memory import training_step


def test_a_step_of_both_parts(small_recipe) -> None:
    run = training_step(small_recipe("method=piloted", "data.batch_size=2"), (64, 96))
    losses, norm = run()
    assert norm.isfinite() and {"loss_mask", "loss_mask_dn"} <= losses.keys()
