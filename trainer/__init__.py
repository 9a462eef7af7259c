"""Trains, evaluates, exports and explains image classifiers.

Commands lie here, files of flags and a `main`; what they do lies in the rooms below. See ARCHITECTURE.md.
"""
