"""Trains, evaluates, exports and explains image classifiers.

Commands lie here, files of flags and a `main`, beside three files that they share: `request` says what a user asked
for, `run` does one training run in order, `rundir` says what a run keeps of itself. All else lies in the rooms below.
See ARCHITECTURE.md.
"""
