"""What the book adds to Sphinx: sliders without a kernel, links to sources, equations drawn while it is built."""
