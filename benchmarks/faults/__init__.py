"""Planted faults and healthy trainings: how often each finding is right, and how often it is missed."""
