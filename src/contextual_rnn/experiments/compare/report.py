REPORT = "report.html"


def write_report(plan, answer, folder):
    (folder / REPORT).write_text("")
