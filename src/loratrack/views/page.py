"""The HTML around a page that is one file: it needs no script and no network.

render('{% extends "page.html" %}{% block content %}<p>{{ text }}</p>{% endblock %}', title="…", text="…")
"""

from __future__ import annotations

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

STYLE = Markup("""\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
svg, img { max-width: 100%; height: auto; display: block }
g[id^=run-]:hover path { stroke: #d62728 !important; stroke-width: 4 !important }
.wide { overflow-x: auto }
table { border-collapse: collapse; white-space: nowrap; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .75rem; border-bottom: 1px solid #ddd }
""")
SHELL = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
{{ style }}</style>
{% block content %}{% endblock %}
</html>
"""
TABLE = """\
{% macro table(rows, links=()) %}
{# The first row is the heading; `links` lead from the first cell of the other rows. #}
{% if rows %}
<table>
<tr>{% for cell in rows[0] %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for cells in rows[1:] %}
{% set link = links[loop.index0] if links else None %}
<tr>
{%- for cell in cells %}
<td>{% if link and loop.first %}<a href="{{ link }}">{{ cell }}</a>{% else %}{{ cell }}{% endif %}</td>
{%- endfor %}
</tr>
{% endfor %}
</table>
{% endif %}
{% endmacro %}
"""

_environment = Environment(
    loader=DictLoader({"page.html": SHELL, "table.html": TABLE}),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, *, title: str, **values: object) -> str:
    """A template that extends page.html, filled in; whatever is not Markup is escaped."""
    return _environment.from_string(template).render(title=title, style=STYLE, **values)
