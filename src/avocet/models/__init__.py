"""Clip -> tokens -> features -> text: the caption models and the four verbs they share."""
