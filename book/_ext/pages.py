"""Two corrections to every page of the book, after the theme and the extensions."""

import re

EXECUTED = re.compile(r"book/runs/([a-z]+)[^/?]*\.ipynb")


def launch_sources(app, pagename, templatename, context, doctree):
    """Let launch buttons open notebooks/<kind>.ipynb: executed pages are not in the repository."""
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            # The download button has a relative address: it gives the executed page itself.
            if button.get("url", "").startswith("https://"):
                button["url"] = EXECUTED.sub(r"notebooks/\1.ipynb", button["url"])


def drop_thebe(app, pagename, templatename, context, doctree):
    """Leave out the scripts of sphinx-thebe, which Jupyter Book always loads.

    The book does not use them, and Sphinx 7.4 writes the inline one twice, which is a script error.
    """
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in f"{script.filename} {script.attributes.get('body', '')}"
    ]


def setup(app):
    # The theme appends its buttons at priority 501.
    app.connect("html-page-context", launch_sources, priority=600)
    app.connect("html-page-context", drop_thebe, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
