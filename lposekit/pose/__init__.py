"""Persons and their keypoints: MMDet and MMPose models, batched."""

import os

# OpenMP reads this once, when torch loads. By default its threads spin while they wait: on a machine whose cores are
# shared with other workers two such threads took five to ten times as long as two that sleep (docs/decisions).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# MMDet imports albumentations, which asks the package index for a newer version of itself unless it is told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
