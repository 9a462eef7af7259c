"""Training: the step, the loop over phases and epochs, what is saved, exact evaluation."""
