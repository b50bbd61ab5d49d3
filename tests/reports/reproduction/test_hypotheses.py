"""Claims: whether they hold here, and the paper's own differences."""

from collections.abc import Callable

from mpdiag.reproduce.experiments import TRAININGS
from reports.reproduction import TABLES, TrainedRun
from reports.reproduction.hypotheses import HYPOTHESES, evaluate_hypotheses
from reports.reproduction.results import TrainingResults

MakeTrained = Callable[..., list[TrainedRun]]
SMALL = {"images": 2, "queries": 3, "layers": 2}


def answers(target: str, trained: list[TrainedRun]) -> dict[str, tuple[str, str, str]]:
    names = frozenset(one.name for one in trained)
    found = [
        finding for finding, _ in evaluate_hypotheses(target, TrainingResults.read(trained), names)
    ]
    return {one.text: (one.answer, one.measured, one.published) for one in found}


def test_a_claim_holds_falls_or_stays_open(make_trained: MakeTrained) -> None:
    table = {
        "baseline": (0.20, 0.22),
        "fixed-matching": (0.10, 0.125),  # below, surely
        "auxiliary-loss": (0.21, 0.2301),  # above, surely
    }
    trained = make_trained(["table7"], [0, 1], lambda name, seed: table[name][seed], **SMALL)
    found = answers("table7", trained)
    # t(0.975, 1) = 12.706; differences -10.0 and -9.5: -9.75 ± 12.706 * 0.25
    assert found["Table 7: A fixed matching scheme loses AP"] == (
        "yes", "−9.8 ± 3.2 (2 seeds)", "−2.7",  # noqa: RUF001
    )  # fmt: skip
    answer, _, published = found["Table 7: The auxiliary loss loses AP"]
    assert (answer, published) == ("no", "−0.5")  # noqa: RUF001
    alone = answers("table7", [one for one in trained if one.seed == 0])
    assert alone["Table 7: A fixed matching scheme loses AP"][0] == "undecided"


def test_a_claim_without_its_runs_is_unknown(make_trained: MakeTrained) -> None:
    trained = make_trained(["table7"], [0], **SMALL)
    (next(one for one in trained if one.name == "baseline").directory / "model_final.pth").unlink()
    for one in trained:
        (one.directory / "metrics.json").unlink()
    assert {answer for answer, *_ in answers("table7", trained).values()} == {"unknown"}


def test_the_papers_differences(make_trained: MakeTrained) -> None:
    """By hand from its tables: 94.0 - 38.1, 51.5 - 23.0, 44.1 - 43.7, 27.4 - 26.4, 39.4 - 38.7."""
    trained = make_trained(["table1", "table3", "table4"], [0], **SMALL)
    published = {
        text: figure
        for target in ("table1", "table3", "table4")
        for text, (_, _, figure) in answers(target, trained).items()
    }
    assert published["Table 1: Util¹ of the MP part exceeds Mask2Former's"] == "+55.9"
    assert published["Table 1: mIoU-L¹ of the MP part exceeds Mask2Former's"] == "+28.5"
    shorter = [figure for text, figure in published.items() if text.startswith("Table 3")]
    assert shorter == ["+0.4", "+1.0"]
    assert published["Table 4: MP training on 3 layers raises AP"] == "+0.7"
    unprinted = "Table 1: Util¹ of the matching part rises under multi-layer MP training"
    assert published[unprinted] == ""


def test_every_claim_is_about_rows_of_its_table() -> None:
    assert {row.training for rows in TABLES.values() for row in rows} <= TRAININGS.keys()
    for claim in HYPOTHESES:
        assert {claim.a.training, claim.b.training} <= TRAININGS.keys(), claim.text
        assert claim.sign in (1, -1)
