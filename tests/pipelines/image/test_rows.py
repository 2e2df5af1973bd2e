"""Contract of a row: what it stores follows from its image, its persons and the rules."""

from __future__ import annotations

from dataclasses import replace

from lposekit.errors import Outcome
from lposekit.records import ImageRow, PoseFailure
from pipelines.image.rows import posed_row, unposed_row
from pipelines.job.rows import MAX_ERROR_CHARS
from tests.support.dataset_folder import RULE, RULES, person, solid_image

ROW = ImageRow("000000000", "http://a.example/0.jpg", "somebody", {})
SMALL, LARGE = 60.0, 150.0


def test_counts_are_those_of_the_best_and_of_the_largest_person() -> None:
    # Mutations tried: the fewest in place of the most; the smallest person in place of the largest -> red.
    persons = [person(12, size=SMALL), person(4, size=LARGE), person(2, size=SMALL)]
    row = posed_row(ROW, solid_image(0), "0" * 64, persons, RULES)
    assert (row.columns["num_persons"], row.columns["max_detected"], row.columns["main_detected"]) == (3, 12, 4)
    nobody = posed_row(ROW, solid_image(0), "0" * 64, [], RULES)
    assert (nobody.columns["num_persons"], nobody.columns["max_detected"], nobody.columns["main_detected"]) == (
        0, None, None,
    )  # fmt: skip


def test_a_looser_rule_for_storing_stores_what_the_keep_rule_turns_down() -> None:
    # Mutation tried: the keep rule asked twice -> no sample.
    looser = replace(RULES, store=replace(RULE, min_detected=0.25))
    for detected, status in ((5, "success"), (4, "failed_to_resize")):
        row = posed_row(ROW, solid_image(0), "0" * 64, [person(detected)], looser)
        assert (row.outcome, row.columns["status"], bool(row.samples)) == (
            Outcome.FEW_KEYPOINTS, status, status == "success",
        )  # fmt: skip
        assert (row.thumbnail is None) == bool(row.samples)


def test_a_model_that_failed_and_one_that_died_are_told_apart() -> None:
    # Mutation tried: the two outcomes exchanged -> red.
    for crashed, outcome in ((False, Outcome.POSE_FAILED), (True, Outcome.WORKER_CRASH)):
        row = posed_row(ROW, solid_image(0), "0" * 64, PoseFailure("why", outcome_crash=crashed), RULES)
        assert (row.outcome, row.samples) == (outcome, ())


def test_an_image_that_a_rule_refused_leaves_no_thumbnail() -> None:
    # Mutation tried: a thumbnail for every row with an image -> red.
    for outcome, has_one in ((Outcome.TOO_SMALL, True), (Outcome.HASH_MISMATCH, False), (Outcome.BLOCKED, False)):
        assert (unposed_row(ROW, outcome, "why", solid_image(0)).thumbnail is not None) == has_one


def test_a_long_reason_is_cut() -> None:
    # Mutation tried: no limit -> red.
    row = unposed_row(ROW, Outcome.TIMEOUT, "x" * 2000)
    assert len(row.columns["error_message"]) == MAX_ERROR_CHARS == 500
    assert row.columns["error_message"].startswith("timeout: xxx")
