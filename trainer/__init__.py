"""The trainer of both stages of Follow-Your-Pose. Read `train.py` first."""
