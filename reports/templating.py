"""Templates to pages: undefined names are errors, text is escaped."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from reports.palette import tokens


def fill(template: str, **given: object) -> str:
    """The page of `templates/<template>`, with the theme's colours."""
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(tokens=tokens(), **given)
