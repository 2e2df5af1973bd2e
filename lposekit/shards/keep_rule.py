"""The keep rule and keypoint format that the card of an image dataset names."""

from __future__ import annotations

import typing
from dataclasses import replace

from lposekit.errors import LposekitError
from lposekit.json_values import NUMBER, JsonFields, JsonValue, Kind
from lposekit.keypoints import KEYPOINT_FORMATS, KeepRule, KeypointFormat, PersonRule
from lposekit.shards.card import DatasetCard


def _person_rule(value: JsonValue) -> PersonRule:
    for known in typing.get_args(PersonRule):
        if value == known:
            return known
    raise ValueError


PERSON_RULE = Kind(f"one of {', '.join(typing.get_args(PersonRule))}", _person_rule)


def keep_rule_of(card: DatasetCard) -> tuple[KeepRule, KeypointFormat]:
    """The keep rule and the keypoint format that a card names. Parts of a rule that are not named have their default.

    Raises:
        LposekitError: the card lacks them, or names a rule or format that this version does not know.
    """
    try:
        return _rule(card), KEYPOINT_FORMATS[card.keypoint_format or ""]
    except (KeyError, ValueError) as error:
        raise LposekitError(
            f"the dataset card has no keep rule and keypoint format that this version reads ({error!r}). "
            "Run `lposekit verify` on the folder, or upgrade lposekit."
        ) from error


def _rule(card: DatasetCard) -> KeepRule:
    """The rule that a card states.

    Raises:
        ValueError: names the key that is missing or wrong.
    """
    stated = JsonFields(card.keep_rule or {}, "keep_rule.")
    rule = KeepRule(stated.need("keypoint_score_threshold", NUMBER))

    def number(name: str, default: float) -> float:
        value = stated.take(name, NUMBER)
        return default if value is None else value

    return replace(
        rule,
        min_detected=number("min_detected", rule.min_detected),
        person_rule=stated.take("person_rule", PERSON_RULE) or rule.person_rule,
        box_score_threshold=number("box_score_threshold", rule.box_score_threshold),
        min_box_area_fraction=number("min_box_area_fraction", rule.min_box_area_fraction),
        min_box_side_px=number("min_box_side_px", rule.min_box_side_px),
    )
