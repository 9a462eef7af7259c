"""Judges data before anything is trained on them: `step` gathers, `gate` decides, `page` shows."""
