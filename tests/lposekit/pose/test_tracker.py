"""Contract of the tracker: a person keeps the number over movement, misses and crossings; unsure boxes continue tracks
but begin none; somebody who comes back too late is somebody else; frames without anybody are frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lposekit.pose.tracker import Tracker, TrackerSettings
from lposekit.records import Person
from tests.lposekit.pose.poses import standing

SETTINGS = TrackerSettings(start_score=0.5, memory_frames=10)


def ids(frames: Sequence[Sequence[Person]], settings: TrackerSettings = SETTINGS) -> list[list[int | None]]:
    tracker = Tracker(settings, "coco17", 0.4)
    return [tracker.update(persons) for persons in frames]


def test_two_who_pass_each_other_keep_their_numbers() -> None:
    # Mutation tried: velocity always 0 -> they swap where they meet.
    frames = []
    for frame in range(31):
        walkers = [standing(50.0 + 20 * frame), standing(640.0 - 20 * frame)]
        frames.append(walkers if frame % 2 else walkers[::-1])  # the detector gives them in any order
    found = ids(frames)
    assert found == [[2, 1] if frame % 2 else [1, 2] for frame in range(31)]


def test_a_person_missed_for_a_while_is_the_same_one() -> None:
    # Mutation tried: lost tracks not matched -> number 2.
    frames = [[standing(100 + 3 * frame)] if frame < 10 or frame >= 16 else [] for frame in range(20)]
    assert ids(frames) == [[1] if persons else [] for persons in frames]


def test_a_person_away_for_longer_than_the_memory_is_another_one() -> None:
    frames = [[standing(100)], *[[]] * 11, [standing(100)]]
    assert ids(frames)[-1] == [2]
    frames = [[standing(100)], *[[]] * 10, [standing(100)]]
    assert ids(frames)[-1] == [1]


def test_an_unsure_box_continues_a_track_and_begins_none() -> None:
    # Mutation tried: no look at start_score -> the first unsure one begins a track.
    frames = [[standing(100, score=0.3)], [standing(100, score=0.9)], [standing(102, score=0.3)]]
    assert ids(frames) == [[None], [1], [1]]


def test_the_one_seen_a_moment_ago_goes_before_the_one_lost() -> None:
    # Somebody makes a long step to where another was lost: nearer to that place than to the step expected.
    # Mutation tried: both kinds of tracks matched at once -> the walker becomes number 1.
    lost, places = standing(200), [*range(100, 190, 10), 200, 210]
    frames = [[lost, standing(place)] if frame < 2 else [standing(place)] for frame, place in enumerate(places)]
    assert [found[-1] for found in ids(frames)] == [2] * len(places)


def test_a_track_holds_what_was_found_and_nothing_elsewhere() -> None:
    tracker = Tracker(SETTINGS, "coco17", 0.4)
    for persons in ([], [standing(100)], [], [standing(104)]):
        tracker.update(persons)
    [track] = tracker.tracks()
    assert track.present_F.tolist() == [False, True, False, True]
    assert track.boxes_F5[3].tolist() == pytest.approx([104, 50, 60, 150, 0.9])
    assert (track.keypoints_FK3[1] == standing(100).keypoints_K3).all()


def test_short_tracks_are_dropped_and_the_rest_numbered_from_1() -> None:
    frames = [[standing(400)], *[[standing(100)] for _ in range(5)]]
    tracker = Tracker(TrackerSettings(start_score=0.5, min_frames=3), "coco17", 0.4)
    for persons in frames:
        tracker.update(persons)
    assert [(track.id, int(track.present_F.sum())) for track in tracker.tracks()] == [(1, 5)]


def test_nobody_in_any_frame_is_no_track() -> None:
    tracker = Tracker(SETTINGS, "coco17", 0.4)
    assert [tracker.update([]) for _ in range(3)] == [[], [], []]
    assert tracker.tracks() == ()
