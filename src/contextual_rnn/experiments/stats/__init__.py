"""Groups of runs compared: intervals over seeds, measures, and their wording."""
