"""A run told to people: report.html and model_card.md."""
