"""Tells people about a run: writes report.html and model_card.md.

`page` gathers what the two templates show: the first screen of `judgement`, the pictures of `gallery`, the figures of
`charts`. `predictions` and `explanations` are a run's files, `measures` and `scores` all that is computed from them;
`comparison` sets two runs side by side.
"""
