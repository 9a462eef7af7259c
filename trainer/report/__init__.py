"""Tells people about a run: writes report.html and model_card.md.

`page` gathers what the two templates show, `charts` draws the figures, `scores` computes what accuracy alone does not
tell: intervals, scores by class, confusions, calibration.
"""
