"""The report, the pages and the published results: what runs say, as HTML, Markdown and JSON."""
