"""Of the course nbval tests the source alone, whose solutions pass: the rest is generated, or learners'."""

collect_ignore_glob = ["release/*", "submitted/*", "autograded/*", "feedback/*"]
