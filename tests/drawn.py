"""What is seen of a figure once it is drawn: texts that overlap or are cut off, and legends over data."""

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


def texts_of(figure):
    """All texts that are seen, as drawn with Agg: text and bounding box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not axes.axison or not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    seen = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in hidden]
    return [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in seen]


def written_on(figure):
    """The texts alone."""
    return [text for text, _ in texts_of(figure)]


def overlapping(figure):
    """Pairs of texts that share more than a pixel."""
    return [
        (one, two)
        for (one, a), (two, b) in combinations(texts_of(figure), 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]


def cut_off(figure):
    """Texts that reach over the figure's edge."""
    edge = figure.bbox
    return [
        text
        for text, box in texts_of(figure)
        if box.x0 < edge.x0 - 1 or box.y0 < edge.y0 - 1 or box.x1 > edge.x1 + 1 or box.y1 > edge.y1 + 1
    ]


def legends_over_data(figure):
    """Legends that lie over a panel."""
    FigureCanvasAgg(figure).draw()
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [
        legend
        for legend in legends
        for axes in figure.axes
        if axes.axison and legend.get_window_extent().overlaps(axes.get_window_extent().padded(-1))
    ]


def assert_legible(figure):
    """No text over another, none cut off, no legend over data."""
    for find in (overlapping, cut_off, legends_over_data):
        found = find(figure)
        assert not found, f"{find.__name__}: {found}"
