"""The paper's experiments: tasks, training, results, report, command line. Imports the library, never the reverse."""
