"""What every page of the book gets after the theme and the extensions have made it."""

import html
import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

EXECUTED = re.compile(r"book/runs/([a-z]+)[^/?]*\.ipynb")
RUN = re.compile(r"book/runs/([a-z_]+)[^/]*")

#: Packages, files within them and folders of the book's static files.
SCRIPTS = (
    ("plotly", "package_data/plotly.min.js", "."),
    ("sphinx-mathjax-offline", "static/mathjax/tex-svg.js", "mathjax"),
)

#: A page with this in it gets plotly.js, of the installed package, and the script that calls it.
SHOWER = 'class="study-shower"'

RERUN = """
<section id="re-run-this-page" class="study-rerun" aria-labelledby="re-run-this-page-title">
<h2 id="re-run-this-page-title">Re-run this page with your parameters</h2>
<p>This is the command that made the page, with its parameters; change them, and run it in the
top folder of the repository. <code>papermill --help-notebook {notebook}</code> says what can be
set.</p>
<div class="highlight-bash notranslate"><div class="highlight"><pre>{command}
</pre></div></div>
<p><a class="study-button" href="{binder}">Open in Binder</a>
<a class="study-button" href="{colab}">Open in Colab</a></p>
<p>Both open the notebook with its defaults. Put the parameters of this page below its cell of
parameters and run all cells; in Binder, the command in a terminal does the same. Colab has
nothing of the study yet: it needs the installation in a first cell.</p>
<details><summary>The two cells: installation in Colab, parameters of this page</summary>
<div class="highlight-python notranslate"><div class="highlight"><pre>{install}
</pre></div></div>
<div class="highlight-python notranslate"><div class="highlight"><pre>{cell}
</pre></div></div></details>
</section>
"""


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


def parameters(page: Path) -> dict:
    """What papermill executed a page with, as its metadata say; none where it was not papermill."""
    return json.loads(page.read_text())["metadata"].get("papermill", {}).get("parameters", {})


def rerun(kind: str, chosen: dict, options: dict) -> str:
    """The box with the command, the buttons and the cells that run a page of `kind` again.

    options: of the theme, where the addresses of the repository and of the services stand.
    """
    notebook = f"notebooks/{kind}.ipynb"
    repository, branch = options["repository_url"].rstrip("/"), options["repository_branch"]
    name = repository.removeprefix("https://github.com/")
    services = options["launch_buttons"]
    words = ["papermill", notebook, "mine.ipynb"]
    for key, value in chosen.items():
        words += ["-p", key, str(value)]
    folder = name.rpartition("/")[2]
    filled = {
        "notebook": notebook,
        "command": shlex.join(words),
        "binder": f"{services['binderhub_url']}/v2/gh/{name}/{branch}?urlpath=lab/tree/{notebook}",
        "colab": f"{services['colab_url']}/github/{name}/blob/{branch}/{notebook}",
        "install": f"!git clone --depth 1 {repository}\n!pip install -q -e {folder}\n%cd {folder}",
        "cell": "\n".join(f"{key} = {value!r}" for key, value in chosen.items())
        or "# this page has its defaults",
    }
    return RERUN.format(**{key: html.escape(text) for key, text in filled.items()})


def add_rerun(app, pagename, templatename, context, doctree):
    """Say at the end of each executed page how to run it again."""
    found = RUN.fullmatch(pagename)
    page = Path(app.srcdir, f"{pagename}.ipynb")
    if found and page.is_file() and "body" in context:
        chosen = {key: value for key, value in parameters(page).items() if key != "results"}
        context["body"] += rerun(found[1], chosen, app.config.html_theme_options)


def add_showers(app, pagename, templatename, context, doctree):
    """Load the scripts that turn showers in space on the pages that have some, and on no other."""
    if SHOWER in context.get("body", ""):
        app.add_js_file("plotly.min.js", loading_method="defer")
        app.add_js_file("showers.js", loading_method="defer")


def copy_scripts(app, exception):
    """Put plotly.js and MathJax of the installed packages beside the other scripts of the book, so
    that the pages need no network."""
    if exception is None and app.builder.format == "html":
        for package, inside, where in SCRIPTS:
            source = Path(importlib.util.find_spec(package).origin).parent / inside
            target = Path(app.outdir, "_static", where, source.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def setup(app):
    # The theme appends its buttons at priority 501.
    # What adds scripts comes before what makes a list of its own of them.
    for correction in (launch_sources, add_showers, drop_thebe, add_rerun):
        app.connect("html-page-context", correction, priority=600)
    app.connect("build-finished", copy_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
