"""Verdicts on the hypotheses, and the paper's differences."""

from collections.abc import Callable
from pathlib import Path

from mpdiag.reproduce.experiments import TRAININGS
from reports.document import Highlight
from reports.reproduction import TABLES, TrainedRun, table_rows
from reports.reproduction.hypotheses import AP, HYPOTHESES, evaluate_hypotheses
from reports.reproduction.image_intervals import ImageInterval, image_interval
from reports.reproduction.results import TrainingResults

MakeTrained = Callable[..., list[TrainedRun]]
SMALL = {"images": 2, "queries": 3, "layers": 2}


def verdicts(target: str, trained: list[TrainedRun]) -> dict[str, tuple[str, str, str]]:
    names = frozenset(one.name for one in trained)
    results = TrainingResults.read(trained)
    highlights = [highlight for highlight, _ in evaluate_hypotheses(target, results, names)]
    return {one.text: (one.label, one.value, one.published) for one in highlights}


def test_yes_no_and_undecided(make_trained: MakeTrained) -> None:
    table = {
        "baseline": (0.20, 0.22),
        "fixed-matching": (0.10, 0.125),  # below with certainty
        "auxiliary-loss": (0.21, 0.2301),  # above with certainty
    }
    trained = make_trained(["table7"], [0, 1], lambda name, seed: table[name][seed], **SMALL)
    found = verdicts("table7", trained)
    # t(0.975, 1) = 12.706; differences -10.0 and -9.5: -9.75 ± 12.706 * 0.25
    assert found["Table 7: The fixed matching scheme lowers AP"] == (
        "yes", "−9.8 ± 3.2 (2 seeds)", "−2.7",  # noqa: RUF001
    )  # fmt: skip
    verdict, _, published = found["Table 7: The auxiliary loss lowers AP"]
    assert (verdict, published) == ("no", "−0.5")  # noqa: RUF001
    alone = verdicts("table7", [one for one in trained if one.seed == 0])
    assert alone["Table 7: The fixed matching scheme lowers AP"][0] == "undecided"


def test_an_interval_over_images_with_zero_leaves_a_hypothesis_undecided(
    make_trained: MakeTrained,
) -> None:
    table = {"baseline": (0.20, 0.22), "fixed-matching": (0.10, 0.125), "auxiliary-loss": (0, 0)}
    trained = make_trained(["table7"], [0, 1], lambda name, seed: table[name][seed], **SMALL)
    names = frozenset(one.name for one in trained)
    results = TrainingResults.read(trained)
    text = "Table 7: The fixed matching scheme lowers AP"

    def evaluate(shift: float) -> Highlight:
        # Differences of the 101 samples: shift - 0.50, ..., shift + 0.50, the same for both seeds.
        resampled = {
            ("baseline", seed, "matching"): {"ap": [0.5] * 101} for seed in (0, 1)
        } | {
            ("fixed-matching", seed, "matching"): {"ap": [k / 100 + shift for k in range(101)]}
            for seed in (0, 1)
        }  # fmt: skip
        found = evaluate_hypotheses("table7", results, names, resampled)
        return next(highlight for highlight, _ in found if highlight.text == text)

    below, both = evaluate(-0.6), evaluate(-0.1)
    # The 2.5 and 97.5 percentiles of 0..100 are 2.5 and 97.5.
    assert (below.label, below.value) == (
        "yes", "−9.8 ± 3.2 (2 seeds; over images −107.5 to −12.5)",  # noqa: RUF001
    )  # fmt: skip
    assert both.label == "undecided" and "over images −57.5 to +37.5" in both.value  # noqa: RUF001
    above = evaluate(0.6)  # the seeds say below, with certainty
    assert above.label == "undecided" and "over images +12.5 to +107.5" in above.value


def test_an_interval_over_images_is_of_the_seeds_of_the_difference() -> None:
    """A seed whose summary has no AP is not part of the difference."""

    def interval(seeds: list[int], **changes: list[float | None]) -> ImageInterval | None:
        columns: dict[str, list[float | None]] = {"a0": [0.5, 0.5], "b0": [0.25, 0.25],
                                                  "a2": [0.0, 0.0], "b2": [1.0, 1.0]}  # fmt: skip
        resampled = {
            (key[0], int(key[1]), "matching"): {"ap": column}
            for key, column in (columns | changes).items()
        }
        return image_interval(resampled, ("a", "matching"), ("b", "matching"), AP, seeds)

    assert interval([0]) == ImageInterval(-0.25, -0.25)
    assert interval([0, 2]) == ImageInterval(0.375, 0.375)
    assert interval([0], b0=[None, 0.25]) == ImageInterval(-0.25, -0.25)
    assert interval([0], b0=[None, None]) is None
    assert interval([0, 1]) is None and interval([0], b0=[0.25]) is None


def test_unknown_without_runs(make_trained: MakeTrained) -> None:
    trained = make_trained(["table7"], [0], **SMALL)
    (next(one for one in trained if one.name == "baseline").directory / "model_final.pth").unlink()
    for one in trained:
        (one.directory / "metrics.json").unlink()
    assert {verdict for verdict, *_ in verdicts("table7", trained).values()} == {"unknown"}


def test_published_differences(tmp_path: Path) -> None:
    """Computed from its tables: 94.0 - 38.1, 51.5 - 23.0, 44.1 - 43.7, 27.4 - 26.4, 39.4 - 38.7."""
    targets = ("table1", "table3", "table4")
    names = {row.training for target in targets for row in table_rows(target, as_published=False)}
    unfinished = [TrainedRun(name, 0, tmp_path / name, {}, 40) for name in sorted(names)]
    published = {
        text: figure
        for target in targets
        for text, (_, _, figure) in verdicts(target, unfinished).items()
    }
    assert published["Table 1: Util¹ of the MP part exceeds Mask2Former's"] == "+55.9"
    assert published["Table 1: mIoU-L¹ of the MP part exceeds Mask2Former's"] == "+28.5"
    shorter = [figure for text, figure in published.items() if text.startswith("Table 3")]
    assert shorter == ["+0.4", "+1.0"]
    assert published["Table 4: MP training on 3 layers raises AP"] == "+0.7"
    unpublished = "Table 1: Multi-layer MP raises Util¹ of the matching part"
    assert published[unpublished] == ""


def test_hypotheses_are_about_known_trainings() -> None:
    assert {row.training for rows in TABLES.values() for row in rows} <= TRAININGS.keys()
    for hypothesis in HYPOTHESES:
        assert {hypothesis.a.training, hypothesis.b.training} <= TRAININGS.keys(), hypothesis.text
        assert hypothesis.sign in (1, -1)
