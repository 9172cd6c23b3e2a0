"""Does a better initial state help on these data? Arms are trained alike, and a verdict is given on a test set."""
