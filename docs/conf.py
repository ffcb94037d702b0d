"""`make docs` builds the site with Sphinx; a broken link or a name that is not there fails it."""

project = "loradrop"
author = "The loradrop authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "loradrop"
exclude_patterns: list[str] = []
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# the docstrings are plain text with `code` in single backquotes
default_role = "code"
# the guide and its page on when it helps stand in the package; their links reach files of the
# repository
suppress_warnings = ["myst.xref_missing"]
