"""Kinds of phases: one file each, a pure function of a run that returns nothing where the evidence does not suffice."""
