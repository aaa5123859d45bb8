"""nbgrader's settings for this course: its commands, run in this folder, find them here."""

from nbconvert.preprocessors import ClearMetadataPreprocessor, CSSHTMLHeaderPreprocessor
from nbgrader import preprocessors as steps

from prilora_lite.teaching import steps as ours

c = get_config()  # noqa: F821 - nbgrader hands it to this file

c.CourseDirectory.course_id = "prilora"
c.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("not written yet")'}

# A teacher's own runs of A4 are not for learners
c.GenerateAssignmentApp.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", "runs.jsonl"]
# Runs that learners hand in with A4 are theirs: no file of the same name beside the source may replace them.
c.Autograde.exclude_overwriting = {"a4_ablation_report": ["runs.jsonl"]}
c.Autograde.sanitize_preprocessors = [
    steps.ClearOutput, steps.DeduplicateIds, ours.DropEmptyMarks, steps.OverwriteKernelspec,
    steps.OverwriteCells, steps.CheckCellMetadata,
]  # fmt: skip
c.Autograde.autograde_preprocessors = [
    steps.Execute, steps.IgnorePattern, ClearMetadataPreprocessor, steps.LimitOutput, ours.JudgeTests,
    ours.Harmless, steps.SaveAutoGrades, steps.AssignLatePenalties, steps.CheckCellMetadata,
]  # fmt: skip
# Pages, in feedback/ and in the formgrader: nothing of a learner's may run there
c.GenerateFeedback.preprocessors = [ours.Harmless, steps.GetGrades, CSSHTMLHeaderPreprocessor]
c.TemplateExporter.filters = {"markdown2html": ours.harmless_markdown}
c.ExecutePreprocessor.skip_cells_with_tag = "no cell has this tag"
c.OverwriteCells.add_missing_cells = True  # a test that was deleted comes back
c.ExecutePreprocessor.timeout = (
    60  # seconds a cell; A4 trains for half of that if its runs were not handed in
)
c.ExecutePreprocessor.iopub_timeout = 60  # for cells that print very much
c.LimitOutput.max_lines = 200
# Where zip_collect finds whose file it is: in archives from Moodle
c.FileNameCollectorPlugin.named_regexp = (
    r".*/(?P<student_id>[^/]+?)_\d+_assignsubmission_file_?/?(?P<file_id>[^/]+)"
)
c.FileNameCollectorPlugin.valid_ext = [".ipynb", ".jsonl"]
