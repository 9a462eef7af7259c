"""Tells people about a run: writes report.html and model_card.md.

`page` gathers what the two templates show: the first screen of `judgement`, the pictures of `gallery`, the figures of
`charts`. `explanations` are a file of a run, `measures` and `scores` all that is computed from them;
`comparison` sets two runs side by side.
"""
