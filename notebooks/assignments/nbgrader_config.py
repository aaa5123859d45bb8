"""nbgrader's settings for this course: its commands, run in this folder, find them here."""

from nbgrader import preprocessors as steps


class DropEmptyMarks(steps.NbGraderPreprocessor):
    """DeduplicateIds empties the mark of a cell that is there twice; the next steps stumble over that."""

    def preprocess_cell(self, cell, resources, index):
        if cell.metadata.get("nbgrader") == {}:
            del cell.metadata["nbgrader"]
        return cell, resources


c = get_config()  # noqa: F821 - nbgrader hands it to this file

c.CourseDirectory.course_id = "prilora"
c.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("not written yet")'}

# Runs that learners hand in with A4 are theirs: no file of the same name beside the source may replace them.
c.Autograde.exclude_overwriting = {"a4_ablation_report": ["runs.jsonl"]}
c.Autograde.sanitize_preprocessors = [
    steps.ClearOutput, steps.DeduplicateIds, DropEmptyMarks, steps.OverwriteKernelspec, steps.OverwriteCells,
    steps.CheckCellMetadata,
]  # fmt: skip
c.OverwriteCells.add_missing_cells = True  # a test that was deleted comes back
c.ExecutePreprocessor.timeout = (
    60  # seconds a cell; A4 trains for half of that if its runs were not handed in
)
c.ExecutePreprocessor.iopub_timeout = 60  # for cells that print very much
c.LimitOutput.max_lines = 200
